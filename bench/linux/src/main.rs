//! What Linux takes for what `servers/bench` measures on Switchyard: the only program of a machine with Debian's kernel.
//!
//! It counts as that one does, by the time-stamp counter, which under `-icount shift=0` counts guest instructions; the median of many
//! readings, less that of reading. It says `bench NAME INSTRUCTIONS` a line and `bench done`, then switches the machine off.
//!
//! What may go wrong: a call that fails ends the program with a panic, and the kernel with it, since this is its first process. The host sees
//! that `bench done` is missing.

use std::arch::x86_64::_rdtsc;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

const READINGS: usize = 301;
const WARM_UP: usize = 50;
const PAGE: usize = 4096;

/// The median of many, in instructions.
fn measure(mut operation: impl FnMut()) -> u64 {
    for _ in 0..WARM_UP {
        operation();
    }
    let mut readings: Vec<u64> = (0..READINGS)
        .map(|_| {
            // SAFETY: reading the counter has no effect.
            let before = unsafe { _rdtsc() };
            operation();
            // SAFETY: as above.
            unsafe { _rdtsc() - before }
        })
        .collect();
    readings.sort_unstable();
    readings[READINGS / 2]
}

/// A call's result, unless it is an error.
fn good(result: i64) -> i64 {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

/// A child process that does `body` for ever, until it is ended.
struct Child(i32);

impl Child {
    fn new(body: impl FnOnce()) -> Child {
        // SAFETY: the program has one thread whenever it forks.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            body();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        Child(good(pid.into()) as i32)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: names a child of this process; no memory is touched.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// Memory that forked children share.
fn shared_page() -> *mut AtomicU32 {
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert!(page != libc::MAP_FAILED);
    page.cast()
}

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    // SAFETY: the word lives; a wait without a time, or a wake.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            value,
            ptr::null::<libc::timespec>(),
        );
    }
}

/// Hands the turn to the other side, and waits for one's own.
fn pass(word: &AtomicU32, mine: u32, theirs: u32) {
    word.store(theirs, Ordering::SeqCst);
    futex(word, libc::FUTEX_WAKE, 1);
    await_turn(word, mine, theirs);
}

fn await_turn(word: &AtomicU32, mine: u32, theirs: u32) {
    while word.load(Ordering::SeqCst) != mine {
        futex(word, libc::FUTEX_WAIT, theirs);
    }
}

fn futex_partner(word: &AtomicU32) {
    await_turn(word, 2, 1);
    loop {
        pass(word, 2, 1);
    }
}

fn futex_cross_space() -> u64 {
    let page = shared_page();
    // SAFETY: mapped, zeroed, and never unmapped.
    let word: &'static AtomicU32 = unsafe { &*page };
    word.store(1, Ordering::SeqCst);
    let _child = Child::new(|| futex_partner(word));
    measure(|| pass(word, 1, 2))
}

fn futex_same_space() -> u64 {
    static WORD: AtomicU32 = AtomicU32::new(1);
    std::thread::spawn(|| futex_partner(&WORD));
    measure(|| pass(&WORD, 1, 2))
}

fn read_write(fd: i32, bytes: &mut [u8], out: bool) {
    // SAFETY: the buffer is as long as is said.
    let done = unsafe {
        if out {
            libc::write(fd, bytes.as_ptr().cast(), bytes.len())
        } else {
            libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len())
        }
    };
    assert_eq!(done, bytes.len() as isize);
}

fn eventfd_pingpong() -> u64 {
    // SAFETY: makes file descriptors.
    let [ping, pong] = [0, 0].map(|_| good(unsafe { libc::eventfd(0, 0) }.into()) as i32);
    let mut one = 1_u64.to_ne_bytes();
    let _child = Child::new(|| {
        let mut one = 1_u64.to_ne_bytes();
        loop {
            read_write(ping, &mut one, false);
            read_write(pong, &mut one, true);
        }
    });
    measure(|| {
        read_write(ping, &mut one, true);
        read_write(pong, &mut one, false);
    })
}

/// A request and an answer over a socket that keeps messages apart.
fn seqpacket(request: usize, answer: usize) -> u64 {
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors into the array.
    good(
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr()) }
            .into(),
    );
    let [mine, theirs] = ends;
    let (mut out, mut back) = (vec![1; request], vec![2; answer]);
    let _child = Child::new(|| {
        let (mut question, mut reply) = (vec![0; request], vec![3; answer]);
        loop {
            read_write(theirs, &mut question, false);
            read_write(theirs, &mut reply, true);
        }
    });
    measure(|| {
        read_write(mine, &mut out, true);
        read_write(mine, &mut back, false);
    })
}

fn sched_yield() -> u64 {
    let yield_now = || {
        // SAFETY: touches no memory.
        unsafe { libc::sched_yield() };
    };
    // The child inherits it. Among threads of this class a yield goes to the next one always.
    schedule_as(libc::SCHED_FIFO, 1);
    let _child = Child::new(|| {
        loop {
            yield_now();
        }
    });
    let cost = measure(yield_now);
    schedule_as(libc::SCHED_OTHER, 0);
    cost
}

fn schedule_as(policy: i32, priority: i32) {
    // SAFETY: zero is a valid value of the structure, which the call reads.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = priority;
        // The library refuses: its own threads would not follow.
        good(libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const parameters,
        ));
    }
}

/// Bytes of the instruction that faults in [`fault`]: `mov rax, [rdi]`.
const FAULTING_BYTES: i64 = 3;

extern "C" fn step_over(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel hands over the context of the thread that faulted, in the instruction below.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += FAULTING_BYTES };
}

fn fault() -> u64 {
    // SAFETY: zero is a valid value of the structure, and the handler has the form that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = step_over as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        good(libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut()).into());
    }
    measure(|| {
        // SAFETY: the handler steps over the instruction, whose bytes are written out so that their number is known.
        unsafe {
            std::arch::asm!(".byte 0x48, 0x8b, 0x07", in("rdi") 8_u64, out("rax") _);
        }
    })
}

fn map_unmap() -> u64 {
    measure(|| {
        // SAFETY: a mapping of this closure's own.
        unsafe {
            let page = libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(page != libc::MAP_FAILED);
            page.cast::<u8>().write_volatile(1);
            good(libc::munmap(page, PAGE).into());
        }
    })
}

extern "C" fn nothing(_: *mut libc::c_void) -> *mut libc::c_void {
    ptr::null_mut()
}

fn thread_create_join() -> u64 {
    measure(|| {
        // SAFETY: the thread does nothing, and is waited for.
        unsafe {
            let mut thread = std::mem::zeroed();
            let made = libc::pthread_create(&mut thread, ptr::null(), nothing, ptr::null_mut());
            assert_eq!(made, 0);
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        }
    })
}

fn wait_for(pid: i32) {
    let mut status = 0;
    // SAFETY: writes the status.
    good(unsafe { libc::waitpid(pid, &mut status, 0) }.into());
    assert_eq!(status, 0);
}

fn fork_exit_wait() -> u64 {
    measure(|| {
        // SAFETY: the program has one thread; the child ends at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        wait_for(good(pid.into()) as i32);
    })
}

/// This program once more, with an argument that has it end at once. The library does it by `vfork` and `exec`.
fn vfork_exec_wait() -> u64 {
    let name = CString::new("/init").expect("no zero in it");
    let word = CString::new(END).expect("no zero in it");
    let arguments = [
        name.as_ptr().cast_mut(),
        word.as_ptr().cast_mut(),
        ptr::null_mut(),
    ];
    let environment = [ptr::null_mut()];
    measure(|| {
        let mut pid = 0;
        // SAFETY: all strings and arrays live and end as they should.
        let made = unsafe {
            libc::posix_spawn(
                &mut pid,
                name.as_ptr(),
                ptr::null(),
                ptr::null(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        assert_eq!(made, 0);
        wait_for(pid);
    })
}

/// The argument that ends the program.
const END: &str = "end";

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == END) {
        return;
    }
    let overhead = measure(|| ());
    let say = |name: &str, instructions: u64| {
        println!("bench {name} {}", instructions.saturating_sub(overhead));
    };
    say(
        "syscall_null",
        measure(|| {
            // SAFETY: touches no memory.
            unsafe { libc::syscall(libc::SYS_getpid) };
        }),
    );
    say("call_reply_cross_space_6w", futex_cross_space());
    say("call_reply_256b", seqpacket(256, 256));
    say("call_reply_4k", seqpacket(64, PAGE));
    say("signal_wait_pingpong", eventfd_pingpong());
    say("fault_round_trip", fault());
    say("map_unmap_4k", map_unmap());
    say("process_create", fork_exit_wait());
    say("process_create_exec", vfork_exec_wait());
    say("yield_cross_space", sched_yield());
    say("thread_create", thread_create_join());
    // Last: from here on there is a second thread.
    say("call_reply_same_space", futex_same_space());
    println!("bench done");
    // SAFETY: nothing is left to be written anywhere.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}
