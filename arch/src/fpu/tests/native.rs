//! Saving, loading, reading and setting on the host CPU's real registers.

use core::arch::naked_asm;

use crate::fpu::hosted::State;
use crate::fpu::layout::{AREA_ALIGNMENT, Layout, Method};
use crate::fpu::{Damaged, ImageError};

const METHODS: [Method; 4] = [
    Method::Fxsave,
    Method::Xsave,
    Method::Xsaveopt,
    Method::Xsavec,
];
const AVX: u64 = 1 << 2;
const AVX512: u64 = 0xE0;

/// All that is visible of the FPU to a program, in a form of its own: the code under test has no part in it.
#[repr(C, align(64))]
#[derive(Clone)]
struct Registers {
    zmm: [[u8; 64]; 32],
    opmasks: [u64; 8],
    x87: [[u8; 10]; 8],
    mxcsr: u32,
    control: u16,
}

impl Registers {
    /// Every register different.
    fn pattern(seed: u64) -> Registers {
        let byte = |at: usize| (seed as usize * 131 + at * 7 + at / 64 * 13 + 1) as u8;
        let mut registers = Registers {
            zmm: [[0; 64]; 32],
            opmasks: [0; 8],
            x87: [[0; 10]; 8],
            mxcsr: 0x1F80 | (seed as u32 & 3) << 13,
            control: 0x037F | (seed as u16 & 3) << 10,
        };
        for (number, register) in registers.zmm.iter_mut().enumerate() {
            for (at, value) in register.iter_mut().enumerate() {
                *value = byte(number * 64 + at);
            }
        }
        for (number, mask) in registers.opmasks.iter_mut().enumerate() {
            // As wide as AVX-512F alone has them.
            *mask = seed
                .wrapping_mul(0x9E37)
                .wrapping_add(number as u64 * 3 + 1)
                & 0xFFFF;
        }
        for (number, register) in registers.x87.iter_mut().enumerate() {
            let mantissa = 1 << 63 | seed << 8 | number as u64;
            register[..8].copy_from_slice(&u64::to_le_bytes(mantissa));
            register[8..].copy_from_slice(&0x3FFF_u16.to_le_bytes());
        }
        registers
    }

    /// The first register that is another in `other`.
    fn differs(&self, other: &Registers) -> Option<String> {
        let at = |equal: &dyn Fn(usize) -> bool, count| (0..count).find(|&number| !equal(number));
        if let Some(number) = at(&|n| self.zmm[n] == other.zmm[n], 32) {
            let (a, b) = (self.zmm[number], other.zmm[number]);
            return Some(format!("zmm{number}: {a:02x?} and {b:02x?}"));
        }
        if let Some(number) = at(&|n| self.x87[n] == other.x87[n], 8) {
            let (a, b) = (self.x87[number], other.x87[number]);
            return Some(format!("st{number}: {a:02x?} and {b:02x?}"));
        }
        let others = |r: &Registers| (r.opmasks, r.mxcsr, r.control);
        let (a, b) = (others(self), others(other));
        (a != b).then(|| format!("opmasks, MXCSR, control word: {a:x?} and {b:x?}"))
    }

    /// What is left of it where the CPU, or the method, knows fewer components.
    fn limited(mut self, xcr0: u64) -> Registers {
        let kept = match xcr0 {
            x if x & AVX512 != 0 => 64,
            x if x & AVX != 0 => 32,
            _ => 16,
        };
        for (number, register) in self.zmm.iter_mut().enumerate() {
            register[kept..].fill(0);
            if number >= 16 && kept < 64 {
                register.fill(0);
            }
        }
        if kept < 64 {
            self.opmasks = [0; 8];
        }
        self
    }
}

/// Loads every register from [`Registers`] (AVX-512's too if `wide` is 2, AVX's if it is 1), calls `work(argument)`, and stores every
/// register where they came from.
///
/// In: `rdi` the registers, `rsi` the work, `rdx` its argument, `ecx` how wide. Lost: what C may lose, and all FPU registers; the
/// control words are put back. Stack: four saved registers, the control words.
#[unsafe(naked)]
unsafe extern "sysv64" fn around(
    registers: &mut Registers,
    work: extern "sysv64" fn(*mut State),
    argument: *mut State,
    wide: u32,
) {
    naked_asm!(
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "sub rsp, 24",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rdx",
        "mov r14d, ecx",
        "fninit",
        ".irp at,70,60,50,40,30,20,10,0",
        "fld tbyte ptr [rbx + 2112 + \\at]",
        ".endr",
        "fldcw [rbx + 2196]",
        "ldmxcsr [rbx + 2192]",
        "cmp r14d, 1",
        "ja 2f",
        "je 3f",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movups xmm\\n, [rbx + 64 * \\n]",
        ".endr",
        "jmp 4f",
        "3:",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vmovups ymm\\n, [rbx + 64 * \\n]",
        ".endr",
        "jmp 4f",
        "2:",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "vmovups zmm\\n, [rbx + 64 * \\n]",
        ".endr",
        ".irp n,0,1,2,3,4,5,6,7",
        "kmovw k\\n, [rbx + 2048 + 8 * \\n]",
        ".endr",
        "4:",
        "mov rdi, r13",
        "call r12",
        "cmp r14d, 1",
        "ja 2f",
        "je 3f",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movups [rbx + 64 * \\n], xmm\\n",
        ".endr",
        "jmp 4f",
        "3:",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vmovups [rbx + 64 * \\n], ymm\\n",
        ".endr",
        "vzeroupper",
        "jmp 4f",
        "2:",
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "vmovups [rbx + 64 * \\n], zmm\\n",
        ".endr",
        ".irp n,0,1,2,3,4,5,6,7",
        "kmovw eax, k\\n",
        "mov [rbx + 2048 + 8 * \\n], rax",
        ".endr",
        "vzeroupper",
        "4:",
        "stmxcsr [rbx + 2192]",
        "fnstcw [rbx + 2196]",
        ".irp at,0,10,20,30,40,50,60,70",
        "fstp tbyte ptr [rbx + 2112 + \\at]",
        ".endr",
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 24",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "ret",
    )
}

const _: () = {
    use core::mem::offset_of;
    // The numbers in the assembly.
    assert!(offset_of!(Registers, opmasks) == 2048);
    assert!(offset_of!(Registers, x87) == 2112);
    assert!(offset_of!(Registers, mxcsr) == 2192);
    assert!(offset_of!(Registers, control) == 2196);
};

extern "sysv64" fn save(state: *mut State) {
    // SAFETY: the tests below give a state of their own.
    unsafe { (*state).save() };
}

extern "sysv64" fn restore(state: *mut State) {
    // SAFETY: as above. `around` stores what is loaded here and puts the control words back.
    let done = unsafe { (*state).restore() };
    assert_eq!(done, Ok(()));
}

fn wide() -> u32 {
    match Layout::hosted().xcr0 {
        xcr0 if xcr0 & AVX512 != 0 => 2,
        xcr0 if xcr0 & AVX != 0 => 1,
        _ => 0,
    }
}

/// What saving `registers` into `state` leaves of them.
fn saved(state: &mut State, registers: &Registers) {
    let mut kept = registers.clone();
    // SAFETY: `save` changes no register, and the CPU has registers as wide as `wide` says.
    unsafe { around(&mut kept, save, state, wide()) };
    let all = Layout::hosted().xcr0;
    let changed = kept.differs(&registers.clone().limited(all));
    assert_eq!(changed, None, "saving changed registers");
}

/// The registers after `state` was loaded over those of `seed`.
fn loaded(state: &mut State, seed: u64) -> Registers {
    let mut registers = Registers::pattern(seed).limited(Layout::hosted().xcr0);
    // SAFETY: as above; everything is put back.
    unsafe { around(&mut registers, restore, state, wide()) };
    registers
}

fn states() -> impl Iterator<Item = State> {
    METHODS.into_iter().filter_map(State::by)
}

/// XCR0 as far as a method minds it.
fn known(state: &State) -> u64 {
    state.layout().xcr0
}

#[test]
fn every_register_survives_by_every_instruction_that_the_host_has() {
    let mut tried = 0;
    for mut state in states() {
        tried += 1;
        for seed in 0..16 {
            let registers = Registers::pattern(seed);
            saved(&mut state, &registers);
            let mut expected = registers.limited(known(&state));
            let found = loaded(&mut state, seed + 100);
            if state.layout().method == Method::Fxsave {
                // It leaves alone what it does not know.
                let other = Registers::pattern(seed + 100).limited(Layout::hosted().xcr0);
                for (number, register) in expected.zmm.iter_mut().enumerate() {
                    let from = if number < 16 { 16 } else { 0 };
                    register[from..].copy_from_slice(&other.zmm[number][from..]);
                }
                expected.opmasks = other.opmasks;
            }
            assert_eq!(
                found.differs(&expected),
                None,
                "{}, seed {seed}",
                state.layout()
            );
        }
    }
    assert!(tried >= 1);
}

#[test]
fn a_fresh_state_is_the_initial_one() {
    for mut state in states().filter(|state| state.layout().method != Method::Fxsave) {
        let found = loaded(&mut state, 3);
        assert!(
            found.zmm.iter().flatten().all(|&byte| byte == 0),
            "{}",
            state.layout()
        );
        assert_eq!(found.opmasks, [0; 8]);
        assert_eq!((found.mxcsr, found.control), (0x1F80, 0x037F));
        // An empty stack: what is popped from it is the indefinite number (Intel SDM vol. 1 §4.2.2).
        let indefinite = [0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF];
        assert_eq!(found.x87, [indefinite; 8]);
    }
}

#[test]
fn a_state_saved_in_one_format_is_read_the_same_as_in_another() {
    let registers = Registers::pattern(9);
    let images: Vec<Vec<u8>> = states()
        .filter(|state| state.layout().method != Method::Fxsave)
        .map(|mut state| {
            saved(&mut state, &registers);
            let mut image = vec![0xEE; state.image_bytes()];
            state.read(&mut image).unwrap();
            // The addresses of the last x87 instruction and operand are where the test's own code is.
            image[6..24].fill(0);
            image
        })
        .collect();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    for image in images {
        assert_eq!(image[160..176], registers.zmm[0][..16]);
        assert_eq!(image[24..28], registers.mxcsr.to_le_bytes());
    }
}

#[test]
fn what_is_written_is_what_is_loaded() {
    for mut from in states() {
        let registers = Registers::pattern(21);
        saved(&mut from, &registers);
        let mut image = vec![0; from.image_bytes()];
        from.read(&mut image).unwrap();
        let mut to = State::by(from.layout().method).unwrap();
        // Over a state that is in use.
        saved(&mut to, &Registers::pattern(22));
        to.write(&image).unwrap();
        let (one, other) = (loaded(&mut to, 5), loaded(&mut from, 5));
        assert_eq!(one.differs(&other), None, "{}", to.layout());
        let mut again = vec![0; image.len()];
        to.read(&mut again).unwrap();
        assert!(image == again, "{}", to.layout());
    }
}

#[test]
fn former_bytes_of_a_component_in_its_initial_state_are_not_read() {
    for mut state in states().filter(|state| state.layout().method != Method::Fxsave) {
        saved(&mut state, &Registers::pattern(5));
        // All components initial by the header, with their bytes still there.
        state.area_mut()[512..520].fill(0);
        let mut image = vec![0xEE; state.image_bytes()];
        state.read(&mut image).unwrap();
        assert_eq!(image[..2], 0x037F_u16.to_le_bytes());
        assert!(
            image[2..24]
                .iter()
                .chain(&image[28..])
                .all(|&byte| byte == 0)
        );
    }
}

#[test]
fn control_words_alone_are_kept() {
    // MXCSR is a part of SSE in the compacted format, whose registers are all initial here.
    for mut state in states() {
        let mut image = vec![0; state.image_bytes()];
        State::by(state.layout().method)
            .unwrap()
            .read(&mut image)
            .unwrap();
        image[24..28].copy_from_slice(&0x7F80_u32.to_le_bytes());
        state.write(&image).unwrap();
        assert_eq!(loaded(&mut state, 8).mxcsr, 0x7F80, "{}", state.layout());
    }
}

#[test]
fn states_that_the_cpu_would_refuse_are_refused_by_name() {
    for mut state in states() {
        saved(&mut state, &Registers::pattern(33));
        let mut good = vec![0; state.image_bytes()];
        state.read(&mut good).unwrap();
        let before = state.clone();
        let layout = *state.layout();
        let mut refused = |why: ImageError, spoil: &dyn Fn(&mut Vec<u8>)| {
            let mut image = good.clone();
            spoil(&mut image);
            assert_eq!(state.write(&image), Err(why), "{layout}");
        };
        refused(ImageError::Size, &|image| {
            image.pop();
        });
        refused(ImageError::Size, &|image| image.push(0));
        refused(ImageError::Size, &Vec::clear);
        refused(ImageError::Mxcsr, &|image| image[27] = 0x80);
        if layout.method != Method::Fxsave {
            // AMX's tiles, PKRU, a supervisor component, and one that nobody knows.
            for bit in [17, 9, 11, 62] {
                refused(ImageError::Components, &|image| {
                    image[512 + bit / 8] |= 1 << (bit % 8);
                });
            }
            refused(ImageError::Header, &|image| image[527] = 0x80);
            for reserved in [520, 528, 575] {
                refused(ImageError::Header, &|image| image[reserved] = 1);
            }
        }
        let mut short = vec![0; state.image_bytes() - 1];
        assert_eq!(state.read(&mut short), Err(ImageError::Size));
        let (after, before) = (loaded(&mut state, 1), loaded(&mut before.clone(), 1));
        assert_eq!(after.differs(&before), None, "{layout}");
    }
}

/// Stands for the kernel's trap handler: goes on at the fix-up, or ends the process.
extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel of the host gives a valid context to a handler with SA_SIGINFO; nothing here allocates.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = &mut registers[libc::REG_RIP as usize];
        match crate::fpu::fixup(*rip as u64) {
            Some(landing) => *rip = landing as i64,
            None => libc::abort(),
        }
    }
}

#[test]
fn a_damaged_area_ends_in_an_error_and_not_in_a_fault() {
    // In a process of its own: the handler is for faults of this test only.
    if std::env::var_os("FPU_DAMAGE").is_none() {
        let name = "a_damaged_area_ends_in_an_error_and_not_in_a_fault";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--test-threads=1"])
            .env("FPU_DAMAGE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    // SAFETY: the handler only sends faulting loads of areas on.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        let none = std::ptr::null_mut();
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, none), 0);
    }
    for state in states() {
        let method = state.layout().method;
        // Reserved bits of MXCSR; of the header: an unknown component, reserved bytes.
        let places: &[usize] = if method == Method::Fxsave {
            &[27]
        } else {
            &[27, 519, 530]
        };
        for place in places {
            let mut spoilt = state.clone();
            spoilt.area_mut()[512] = 3;
            spoilt.area_mut()[*place] = 0xFF;
            // SAFETY: it loads nothing.
            let refused = unsafe { spoilt.restore() };
            assert_eq!(refused, Err(Damaged), "{method:?}, byte {place}");
        }
        // SAFETY: a sound state, whose control words are the initial ones that Rust expects.
        assert_eq!(unsafe { state.restore() }, Ok(()), "{method:?}");
    }
}

#[test]
fn an_area_is_aligned_as_the_cpu_wants_it() {
    assert!(align_of::<State>() >= AREA_ALIGNMENT);
}
