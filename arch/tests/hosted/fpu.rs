//! FPU registers: of the user's own, or shared with the host's control words put back.

use std::arch::{asm, global_asm};

use arch::fpu::ImageError;
use arch::hosted::{Fpu, HostThread, HostedContext};
use arch::run::Trap;

use crate::common::*;

global_asm!(
    // In: RDI the entry, RSI 512 bytes. Loads FPU registers from there, calls, stores them there, calls. For ever.
    ".globl switchyard_test_fpu",
    "switchyard_test_fpu:",
    "fxrstor64 [rsi]",
    "call rdi",
    "fxsave64 [rsi]",
    "call rdi",
    "jmp switchyard_test_fpu",
    // In: RDI the entry, RSI 64 bytes. The same with the upper half of YMM7 (an AVX register).
    ".globl switchyard_test_avx",
    "switchyard_test_avx:",
    "vmovups ymm7, [rsi]",
    "call rdi",
    "vmovups [rsi + 32], ymm7",
    "call rdi",
    // In: RDI the entry. Leaves odd control words behind.
    ".globl switchyard_test_control",
    "switchyard_test_control:",
    "push 0x7FFF",
    "and dword ptr [rsp], 0x0000FFC0",
    "or dword ptr [rsp], 0x1F80",
    "ldmxcsr [rsp]",
    "mov dword ptr [rsp], 0x0B40",
    "fldcw [rsp]",
    // A division by zero that stays pending.
    "fld1",
    "fldz",
    "fdivp",
    "pop rax",
    "call rdi",
    "jmp switchyard_test_control",
);

unsafe extern "C" {
    fn switchyard_test_fpu();
    fn switchyard_test_avx();
    fn switchyard_test_control();
}

#[repr(align(64))]
struct Image([u8; 512]);

/// An `fxsave` image with a pattern in every register and unusual, valid control words.
fn image(seed: u8) -> Image {
    let mut image = Image([0; 512]);
    image.0[0..2].copy_from_slice(&0x0A7Fu16.to_le_bytes());
    image.0[4] = 0xFF;
    image.0[24..28].copy_from_slice(&0x7F80u32.to_le_bytes());
    for (i, byte) in image.0[32..416].iter_mut().enumerate() {
        // The x87 registers have ten bytes of sixteen.
        if i >= 128 || i % 16 < 10 {
            *byte = seed.wrapping_add((i * 7) as u8);
        }
    }
    image
}

/// What of an image `fxsave` writes and the user put there.
fn registers(image: &[u8; 512]) -> (&[u8], &[u8], &[u8]) {
    (&image[0..2], &image[24..28], &image[32..416])
}

/// Overwrites every SSE register of the host's, and its x87 stack.
fn use_the_fpu() {
    let other = image(0xA5);
    let mut mine = Image([0; 512]);
    // SAFETY: the host's state is loaded again right after; the compiler keeps nothing in these registers across.
    unsafe {
        asm!(
            "fxsave64 [{mine}]", "fxrstor64 [{other}]", "fxrstor64 [{mine}]",
            "xorps xmm0, xmm0", "xorps xmm7, xmm7", "xorps xmm15, xmm15",
            mine = in(reg) &raw mut mine, other = in(reg) &raw const other,
            out("xmm0") _, out("xmm7") _, out("xmm15") _,
        );
    }
}

/// What is kept for a context, as an `fxsave` image.
fn kept(user: &HostedContext) -> [u8; 512] {
    let state = user.fpu().expect("its own");
    let mut whole = vec![0; state.image_bytes()];
    state.read(&mut whole).expect("room");
    *whole.first_chunk().expect("at least that")
}

fn prepare(code: unsafe extern "C" fn(), stack: &Stack, memory: *mut u8) -> HostedContext {
    let mut user = program(code, stack, Fpu::Own);
    user.context_mut().rdi = user.entry();
    user.context_mut().rsi = memory as u64;
    user
}

fn call(host: &mut HostThread, user: &mut HostedContext) {
    let state = HostState::now();
    // SAFETY: the programs of this file load and store FPU registers and call.
    assert_eq!(unsafe { host.run(user) }, Ok(Trap::SystemCall));
    assert_eq!(HostState::now(), state);
}

#[test]
fn fpu_registers_of_its_own_are_kept_from_run_to_run() {
    with_each_switch(|host| {
        let stacks = [Stack::new(), Stack::new()];
        let wants = [image(1), image(2)];
        let mut memory = [image(1), image(2)];
        let mut users =
            [0, 1].map(|i| prepare(switchyard_test_fpu, &stacks[i], (&raw mut memory[i]).cast()));
        for _ in 0..3 {
            for user in &mut users {
                call(host, user);
                use_the_fpu();
            }
            for i in 0..2 {
                assert_eq!(registers(&kept(&users[i])), registers(&wants[i].0));
                memory[i].0.fill(0);
                call(host, &mut users[i]);
                use_the_fpu();
                assert_eq!(registers(&memory[i].0), registers(&wants[i].0));
            }
        }
    });
}

#[test]
fn fpu_registers_can_be_set_and_are_checked() {
    let mut host = HostThread::enter().expect("a thread that may run contexts");
    let stack = Stack::new();
    let mut memory = image(3);
    let mut user = prepare(switchyard_test_fpu, &stack, (&raw mut memory).cast());
    call(&mut host, &mut user);
    let other = image(9);
    let mut whole = vec![0; user.fpu().expect("its own").image_bytes()];
    whole[..512].copy_from_slice(&other.0);
    if whole.len() > 512 {
        // The header: x87 and SSE are in the image.
        whole[512] = 3;
    }
    user.set_fpu(&whole).expect("a good image");
    call(&mut host, &mut user);
    assert_eq!(registers(&memory.0), registers(&other.0));
    whole[27] = 0xFF;
    assert_eq!(user.set_fpu(&whole), Err(ImageError::Mxcsr));
    let mut shared = program(switchyard_test_fpu, &stack, Fpu::Shared);
    assert!(shared.fpu().is_none());
    assert_eq!(shared.set_fpu(&whole), Err(ImageError::NoArea));
}

#[test]
fn a_program_begins_with_fpu_registers_in_their_initial_state() {
    let mut host = HostThread::enter().expect("a thread that may run contexts");
    use_the_fpu();
    let stack = Stack::new();
    let mut memory = image(3);
    let mut user = prepare(switchyard_test_fpu, &stack, (&raw mut memory).cast());
    // Begin with the store.
    user.context_mut().rip += 6;
    call(&mut host, &mut user);
    assert_eq!(memory.0[0..2], 0x037Fu16.to_le_bytes());
    assert_eq!(memory.0[24..28], 0x1F80u32.to_le_bytes());
    assert!(memory.0[32..416].iter().all(|&byte| byte == 0));
}

#[test]
fn avx_registers_are_kept_too() {
    if !is_x86_feature_detected!("avx") {
        return;
    }
    let mut host = HostThread::enter().expect("a thread that may run contexts");
    let stack = Stack::new();
    let mut memory = image(5);
    let mut user = prepare(switchyard_test_avx, &stack, (&raw mut memory).cast());
    memory.0[..32].copy_from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8 + 1));
    call(&mut host, &mut user);
    // SAFETY: the CPU has AVX; the register is declared.
    unsafe { asm!("vxorps ymm7, ymm7, ymm7", out("ymm7") _) };
    call(&mut host, &mut user);
    let (stored, seen) = memory.0[..64].split_at(32);
    assert_eq!(stored, seen);
}

#[test]
fn control_words_of_the_hosts_are_put_back_and_pending_exceptions_stay_behind() {
    with_each_switch(|host| {
        for fpu in [Fpu::Shared, Fpu::Own] {
            let stack = Stack::new();
            let mut user = program(switchyard_test_control, &stack, fpu);
            user.context_mut().rdi = user.entry();
            // `call` compares the host's control words.
            call(host, &mut user);
            // SAFETY: a pending exception would come now.
            unsafe { asm!("fwait") };
        }
    });
}
