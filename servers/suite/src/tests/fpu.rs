//! Floating-point and vector registers are a thread's own, whoever else uses the FPU, wherever and whenever.

use abi::{Call, CpuSet, Rights};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rt::{AsHandle, Endpoint, Event, Message, thread, time};

use super::tests;
use crate::bare;
use crate::verdict::Verdict;
use crate::world::World;
use crate::{check, code, must, same, skip};

tests! {
    fpu_state_survives_calls_and_blocking: 40,
    fpu_state_survives_preemption_on_every_cpu: 60,
    fpu_state_survives_ipc_with_a_server_that_uses_it: 40,
    wide_vector_registers_survive_preemption: 60,
    new_thread_finds_a_clean_fpu: 40,
    fpu_state_of_the_dead_is_not_inherited: 40,
}

/// Memory as `fxsave64` lays it out (Intel SDM vol. 1 §10.5.1), and behind it the upper halves of sixteen `ymm` registers.
#[repr(C, align(64))]
#[derive(Clone)]
struct State {
    legacy: [u8; 512],
    wide: [[u8; 32]; 16],
}

/// What a thread does between loading the state and storing it: a system call, then a spin, so many times.
#[repr(C)]
struct Work {
    call: u64,
    handle: u64,
    times: u64,
    spins: u64,
}

const CONTROL: usize = 0;
const MXCSR: usize = 24;
const STACK: usize = 32;
const XMM: usize = 160;

impl State {
    /// Every register different: x87 control word, stack registers, MXCSR, vector registers.
    fn pattern(seed: u64) -> Box<State> {
        let mut state = Box::new(State {
            legacy: [0; 512],
            wide: [[0; 32]; 16],
        });
        // All exceptions masked; rounding and precision as the seed says (SDM vol. 1 §8.1.5, §10.2.3). Bit 6 is reserved and reads
        // as one.
        let control = 0x007F | ((seed as u16 & 3) << 10) | 0x0300;
        state.legacy[CONTROL..CONTROL + 2].copy_from_slice(&control.to_le_bytes());
        // All eight stack registers in use.
        state.legacy[4] = 0xFF;
        let mxcsr = 0x1F80_u32 | ((seed as u32 >> 2 & 3) << 13);
        state.legacy[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        for register in 0..8 {
            let place = STACK + register * 16;
            let mantissa = 1 << 63 | seed << 8 | register as u64;
            state.legacy[place..place + 8].copy_from_slice(&mantissa.to_le_bytes());
            state.legacy[place + 8..place + 10].copy_from_slice(&0x3FFF_u16.to_le_bytes());
        }
        for register in 0..16 {
            for byte in 0..32 {
                let value = (seed as usize * 37 + register * 16 + byte * 5 + 1) as u8;
                if byte < 16 {
                    state.legacy[XMM + register * 16 + byte] = value;
                }
                state.wide[register][byte] = value;
            }
        }
        state
    }

    /// The parts that are a thread's: what the FPU reports about its last instruction is left out.
    fn own(&self) -> Vec<u8> {
        let mut own = self.legacy[CONTROL..CONTROL + 2].to_vec();
        own.push(self.legacy[4]);
        own.extend(&self.legacy[MXCSR..MXCSR + 4]);
        for register in 0..8 {
            own.extend(&self.legacy[STACK + register * 16..STACK + register * 16 + 10]);
        }
        own.extend(&self.legacy[XMM..XMM + 256]);
        own
    }
}

/// Loads the legacy state, works, stores it again.
///
/// In: rdi = [`State`], rsi = [`Work`]. Clobbers what C may, and all FPU registers; the control words are put back.
/// Stack: three saved registers, the control words.
#[unsafe(naked)]
unsafe extern "C" fn hold_legacy(state: &mut State, work: &Work) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r15",
        "sub rsp, 24",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov rbx, rdi",
        "mov rbp, rsi",
        "mov r15, [rbp + 16]",
        "fxrstor64 [rbx]",
        "2:",
        "mov rax, [rbp]",
        "mov rdi, [rbp + 8]",
        "push r14",
        "mov r14, -1",
        "syscall",
        "pop r14",
        "mov rcx, [rbp + 24]",
        "jrcxz 4f",
        "3:",
        "loop 3b",
        "4:",
        "dec r15",
        "jnz 2b",
        "fxsave64 [rbx]",
        "fninit",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 24",
        "pop r15",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// The same for `ymm0` to `ymm15` as wholes; needs AVX.
///
/// In: rdi = [`State`], rsi = [`Work`]. Clobbers what C may, and all vector registers. Stack: three saved registers.
#[unsafe(naked)]
unsafe extern "C" fn hold_wide(state: &mut State, work: &Work) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r15",
        "lea rbx, [rdi + 512]",
        "mov rbp, rsi",
        "mov r15, [rbp + 16]",
        "vmovups ymm0, [rbx]",
        "vmovups ymm1, [rbx + 32]",
        "vmovups ymm2, [rbx + 64]",
        "vmovups ymm3, [rbx + 96]",
        "vmovups ymm4, [rbx + 128]",
        "vmovups ymm5, [rbx + 160]",
        "vmovups ymm6, [rbx + 192]",
        "vmovups ymm7, [rbx + 224]",
        "vmovups ymm8, [rbx + 256]",
        "vmovups ymm9, [rbx + 288]",
        "vmovups ymm10, [rbx + 320]",
        "vmovups ymm11, [rbx + 352]",
        "vmovups ymm12, [rbx + 384]",
        "vmovups ymm13, [rbx + 416]",
        "vmovups ymm14, [rbx + 448]",
        "vmovups ymm15, [rbx + 480]",
        "2:",
        "mov rax, [rbp]",
        "mov rdi, [rbp + 8]",
        "push r14",
        "mov r14, -1",
        "syscall",
        "pop r14",
        "mov rcx, [rbp + 24]",
        "jrcxz 4f",
        "3:",
        "loop 3b",
        "4:",
        "dec r15",
        "jnz 2b",
        "vmovups [rbx], ymm0",
        "vmovups [rbx + 32], ymm1",
        "vmovups [rbx + 64], ymm2",
        "vmovups [rbx + 96], ymm3",
        "vmovups [rbx + 128], ymm4",
        "vmovups [rbx + 160], ymm5",
        "vmovups [rbx + 192], ymm6",
        "vmovups [rbx + 224], ymm7",
        "vmovups [rbx + 256], ymm8",
        "vmovups [rbx + 288], ymm9",
        "vmovups [rbx + 320], ymm10",
        "vmovups [rbx + 352], ymm11",
        "vmovups [rbx + 384], ymm12",
        "vmovups [rbx + 416], ymm13",
        "vmovups [rbx + 448], ymm14",
        "vmovups [rbx + 480], ymm15",
        "vzeroupper",
        "pop r15",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Whether the state survived the work; the seed that didn't otherwise.
fn survives(seed: u64, work: &Work) -> bool {
    let before = State::pattern(seed);
    let mut state = before.clone();
    // SAFETY: the state is a good one, and the calls of these tests touch no memory.
    unsafe { hold_legacy(&mut state, work) };
    state.own() == before.own()
}

/// The same for wide registers.
fn wide_survive(seed: u64, work: &Work) -> bool {
    let before = State::pattern(seed);
    let mut state = before.clone();
    // SAFETY: as above; the caller found AVX.
    unsafe { hold_wide(&mut state, work) };
    state.wide == before.wide
}

fn fpu_state_survives_calls_and_blocking(_: &'static World) -> Verdict {
    for seed in 0..32 {
        for call in [Call::Null, Call::Yield, Call::ClockNow] {
            let work = Work {
                call: call as u64,
                handle: 0,
                times: 20,
                spins: 0,
            };
            check!(
                survives(seed, &work),
                "the state was lost in {}, seed {seed}",
                call.name()
            );
        }
    }
    Ok(())
}

/// Several threads a CPU, each with a state of its own, that spin through many turns of the timer and yield now and then.
fn on_every_cpu(world: &World, one: fn(u64, &Work) -> bool) -> Verdict {
    let mut threads = Vec::new();
    for cpu in 0..world.cpus {
        for number in 0..3 {
            let seed = u64::from(cpu) * 16 + number + 1;
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                let spinning = Work {
                    call: Call::Null as u64,
                    handle: 0,
                    times: 3,
                    spins: 1_500_000,
                };
                let yielding = Work {
                    call: Call::Yield as u64,
                    handle: 0,
                    times: 300,
                    spins: 50,
                };
                (0..2).all(|round| {
                    one(seed * 4 + round, &spinning) && one(seed * 4 + round, &yielding)
                })
            })));
        }
    }
    for thread in threads {
        check!(
            must!(thread.join(time::after(Duration::from_secs(40)))),
            "a thread lost its state"
        );
    }
    Ok(())
}

fn fpu_state_survives_preemption_on_every_cpu(world: &'static World) -> Verdict {
    on_every_cpu(world, survives)
}

/// AVX in XCR0.
pub(super) const AVX: u32 = 1 << 2;

/// XCR0, which says what the kernel has enabled; CPUID only says what it could.
pub(super) fn enabled_components() -> Option<u32> {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    let enabled;
    // SAFETY: OSXSAVE says that the instruction is there (Intel SDM vol. 2D, XGETBV).
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack));
    }
    Some(enabled)
}

fn wide_vector_registers_survive_preemption(world: &'static World) -> Verdict {
    let Some(enabled) = enabled_components() else {
        skip!("no XSAVE");
    };
    check!(enabled & 3 == 3, "x87 or SSE state is off: {enabled:#x}");
    if enabled & AVX == 0 {
        skip!("no AVX, or the kernel leaves it off");
    }
    check!(
        __cpuid_count(13, 0).ebx >= 832,
        "the kernel enabled AVX where its state has no room"
    );
    on_every_cpu(world, wide_survive)
}

fn fpu_state_survives_ipc_with_a_server_that_uses_it(world: &'static World) -> Verdict {
    for cpu in [0, world.cpus - 1] {
        let endpoint = Arc::new(must!(Endpoint::create()));
        let serving = Arc::clone(&endpoint);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = must!(thread::Builder::new().cpu(cpu).spawn(move || {
            let mut pending = None;
            let mut seed = 1000;
            let mut held = true;
            while !stopped.load(Ordering::Relaxed) {
                let event =
                    serving.serve_next(pending.take(), 0, time::after(Duration::from_secs(10)))?;
                if let Event::Message(mut received) = event {
                    seed += 1;
                    held &= survives(
                        seed,
                        &Work {
                            call: Call::Null as u64,
                            handle: 0,
                            times: 2,
                            spins: 0,
                        },
                    );
                    pending = received.reply.take().map(|reply| (reply, Message::new(0)));
                }
            }
            if let Some((reply, message)) = pending {
                reply.answer(message)?;
            }
            Ok::<bool, abi::Error>(held)
        }));
        let client = must!(endpoint.mint(rt::Badge(1), Rights::SEND));
        for seed in 0..40 {
            let work = Work {
                call: Call::Call as u64,
                handle: client.handle().0,
                times: 5,
                spins: 0,
            };
            check!(
                survives_call(seed, &work),
                "the caller's state was lost, seed {seed}"
            );
        }
        stop.store(true, Ordering::Relaxed);
        must!(client.call(Message::new(0), 0, time::after(Duration::from_secs(5))));
        check!(
            must!(must!(server.join(time::after(Duration::from_secs(5))))),
            "the server's state was lost"
        );
    }
    Ok(())
}

/// [`survives`] with a message of words alone in the registers.
fn survives_call(seed: u64, work: &Work) -> bool {
    // The tag is the second argument, rsi, which holds the work's address on entry: a `call` needs one of its own.
    let before = State::pattern(seed);
    let mut state = before.clone();
    for _ in 0..work.times {
        // SAFETY: the state is a good one; the message is words alone.
        unsafe { hold_over_call(&mut state, work) };
    }
    state.own() == before.own()
}

/// Loads the legacy state, makes one `call` with an empty message, stores it again.
///
/// In: rdi = [`State`], rsi = [`Work`]. Clobbers what C may, and all FPU registers; the control words are put back. Stack: six saved
/// registers, the control words.
#[unsafe(naked)]
unsafe extern "C" fn hold_over_call(state: &mut State, work: &Work) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 24",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov rbx, rdi",
        "mov rax, [rsi]",
        "mov rdi, [rsi + 8]",
        "xor esi, esi",
        "mov r14, -1",
        "xor r15d, r15d",
        "fxrstor64 [rbx]",
        "syscall",
        "fxsave64 [rbx]",
        "fninit",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 24",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Machine code that ends its process with code 0 if every vector register is zero and the control words are as after a reset
/// by `fninit` and 1F80h for MXCSR (what the kernel gives a new thread).
fn looks_clean() -> &'static [u8] {
    code!(
        "sub rsp, 576",
        "and rsp, -64",
        "fxsave64 [rsp]",
        "xor edi, edi",
        "cmp dword ptr [rsp + 24], 0x1F80",
        "setne dil",
        "cmp byte ptr [rsp + 4], 0",
        "setne al",
        "or dil, al",
        "mov ecx, 32",
        "lea rbx, [rsp + 160]",
        "2:",
        "cmp qword ptr [rbx], 0",
        "setne al",
        "or dil, al",
        "add rbx, 8",
        "loop 2b",
        "movzx edi, dil",
        "mov eax, 50",
        "syscall",
    )
}

fn new_thread_finds_a_clean_fpu(world: &'static World) -> Verdict {
    for round in 0..10 {
        // Somebody with a dirty FPU on every CPU first.
        let mut threads = Vec::new();
        for cpu in 0..world.cpus {
            threads.push(must!(thread::Builder::new().cpu(cpu).spawn(move || {
                survives(
                    round,
                    &Work {
                        call: Call::Yield as u64,
                        handle: 0,
                        times: 2,
                        spins: 10,
                    },
                )
            })));
        }
        for thread in threads {
            must!(thread.join(time::after(Duration::from_secs(5))));
        }
        let info = must!(bare::run(looks_clean()));
        same!(
            (info.state, info.code),
            (abi::info::ProcessState::Exited as u32, 0)
        );
    }
    Ok(())
}

fn fpu_state_of_the_dead_is_not_inherited(world: &'static World) -> Verdict {
    // A process dies with its registers full; another that uses the FPU next, on the same CPU, finds its own.
    let dirty = code!(
        "pcmpeqd xmm0, xmm0",
        "movaps xmm1, xmm0",
        "movaps xmm7, xmm0",
        "movaps xmm15, xmm0",
        "fldpi",
        "mov eax, 50",
        "syscall"
    );
    for cpu in 0..world.cpus {
        for _ in 0..3 {
            for code in [dirty, looks_clean()] {
                let bare = must!(bare::Bare::new(code, &bare::pattern()));
                must!(bare.thread.set_affinity(&CpuSet::only(cpu)));
                let info = must!(bare.run());
                check!(
                    info.state == abi::info::ProcessState::Exited as u32,
                    "it {}",
                    crate::world::ending(&info)
                );
                check!(
                    code == dirty || info.code == 0,
                    "a new process on CPU {cpu} found another's registers"
                );
            }
        }
    }
    Ok(())
}
