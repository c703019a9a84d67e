//! Faults of user code: vector, error code, address, and all registers as they were.

use std::arch::global_asm;

use arch::context::NO_CALL;
use arch::hosted::{Fpu, HostThread};
use arch::run::Trap;

use crate::common::*;

/// A program of one instruction or a few, of which the one at the label `_at` faults.
macro_rules! programs {
    ($($name:ident: $before:literal, $fault:literal;)*) => {
        $(
            global_asm!(
                concat!(".globl switchyard_fault_", stringify!($name)),
                concat!("switchyard_fault_", stringify!($name), ":"),
                $before,
                concat!(".globl switchyard_fault_", stringify!($name), "_at"),
                concat!("switchyard_fault_", stringify!($name), "_at:"),
                $fault,
                // What the host goes on at: `call rdi`.
                "jmp switchyard_test_count",
            );
        )*
    };
}

programs! {
    divide: "xor edx, edx\n xor ecx, ecx", "div ecx";
    breakpoint: "", "int3";
    debug: "pushfq\n or dword ptr [rsp], 0x100\n popfq", "nop";
    overflow: "", "int 4";
    invalid: "", "ud2";
    stack: "mov rbp, 0x800000000000", "mov rax, [rbp]";
    protection: "mov rax, 0x800000000000", "mov rax, [rax]";
    privileged: "", "hlt";
    bad_vector: "", "int 0x21";
    read: "", "mov eax, [0x1234]";
    write: "", "mov dword ptr [0x5678], eax";
    fetch: "mov eax, 0x9ABC", "jmp rax";
    x87: "fninit\n push 0x340\n fldcw [rsp]\n pop rax\n fld1\n fldz\n fdivp", "fwait";
    alignment: "pushfq\n or dword ptr [rsp], 0x40000\n popfq", "mov eax, [rsp + 1]";
    simd: "push 0x1D80\n ldmxcsr [rsp]\n pop rax\n xorps xmm0, xmm0\n mov eax, 1\n cvtsi2ss xmm1, eax", "divss xmm1, xmm0";
}

macro_rules! program_table {
    ($($name:ident),*) => {{
        unsafe extern "C" { $(
            #[link_name = concat!("switchyard_fault_", stringify!($name))]
            fn $name();
        )* }
        mod at { unsafe extern "C" { $(
            #[link_name = concat!("switchyard_fault_", stringify!($name), "_at")]
            pub fn $name();
        )* } }
        [$((stringify!($name), $name as unsafe extern "C" fn(), at::$name as *const () as u64)),*]
    }};
}

/// Of each program: vector, error code, what RIP is beyond the faulting instruction, CR2.
///
/// `debug` is a step: of INT1 some hypervisors say where it begins and not, as hardware does, where it ends.
fn wants(name: &str) -> (u8, u64, i64, Option<u64>) {
    match name {
        "divide" => (0, 0, 0, None),
        "debug" => (1, 0, 1, None),
        "breakpoint" => (3, 0, 1, None),
        "overflow" => (4, 0, 2, None),
        "invalid" => (6, 0, 0, None),
        "stack" => (12, 0, 0, None),
        "protection" | "privileged" => (13, 0, 0, None),
        "bad_vector" => (13, 0x21 * 8 + 2, 0, None),
        "read" => (14, 4, 0, Some(0x1234)),
        "write" => (14, 6, 0, Some(0x5678)),
        "fetch" => (14, 0x14, 0, Some(0x9ABC)),
        "x87" => (16, 0, 0, None),
        "alignment" => (17, 0, 0, None),
        "simd" => (19, 0, 0, None),
        other => panic!("{other}"),
    }
}

/// Stops a program behind its next instruction.
const TRAP_FLAG: u64 = 1 << 8;
/// Registers that the programs themselves change: RAX, RCX, RDX, RBP.
const CHANGED: [usize; 4] = [10, 11, 12, 4];

#[test]
fn every_vector_comes_back_with_all_registers_and_user_code_goes_on() {
    let programs = program_table!(
        divide, debug, breakpoint, overflow, invalid, stack, protection, privileged, bad_vector,
        read, write, fetch, x87, alignment, simd
    );
    with_each_switch(|host| {
        for fpu in [Fpu::Shared, Fpu::Own] {
            for (name, code, at) in programs {
                check_fault(host, fpu, name, code, at);
            }
        }
    });
}

fn check_fault(host: &mut HostThread, fpu: Fpu, name: &str, code: unsafe extern "C" fn(), at: u64) {
    let (vector, error_code, beyond, cr2) = wants(name);
    let stack = Stack::new();
    let mut user = program(code, &stack, fpu);
    let values = pattern(u64::from(vector) + 100);
    set_general(user.context_mut(), values);
    (user.context_mut().fs_base, user.context_mut().gs_base) = (0x1_0000, 0x2_0000);
    let state = HostState::now();
    // SAFETY: the program faults where it says.
    let trap = unsafe { host.run(&mut user) };
    assert_eq!(HostState::now(), state, "{name}");
    assert_eq!(trap, Ok(Trap::Exception(vector)), "{name}");
    let context = *user.context();
    assert_eq!(context.error_code, error_code, "{name}");
    assert_eq!(context.call_number, NO_CALL, "{name}");
    let rip = if name == "fetch" {
        0x9ABC
    } else {
        at + beyond as u64
    };
    assert_eq!(context.rip, rip, "{name}");
    if let Some(address) = cr2 {
        assert_eq!(context.cr2, address, "{name}");
    }
    assert_eq!(context.rsp, stack.top(), "{name}");
    assert_eq!(
        (context.fs_base, context.gs_base),
        (0x1_0000, 0x2_0000),
        "{name}"
    );
    for (i, (have, want)) in general(&context).into_iter().zip(values).enumerate() {
        assert!(
            have == want || CHANGED.contains(&i),
            "{name}: register {i}: {have:#x}, not {want:#x}"
        );
    }
    // The host mends it and user code goes on.
    let entry = user.entry();
    let context = user.context_mut();
    context.rip = switchyard_test_count as *const () as u64;
    context.rflags &= !TRAP_FLAG;
    context.rdi = entry;
    context.rax = 5;
    for want in [5, 6] {
        // SAFETY: the program counts and calls.
        let trap = unsafe { host.run(&mut user) };
        assert_eq!(trap, Ok(Trap::SystemCall), "{name}");
        assert_eq!(user.context().rax, want, "{name}");
        assert_eq!(HostState::now(), state, "{name}");
    }
}

global_asm!(
    ".globl switchyard_fault_selector",
    "switchyard_fault_selector:",
    "mov es, ax",
    "jmp switchyard_test_count",
);
unsafe extern "C" {
    fn switchyard_fault_selector();
}

#[test]
fn a_segment_that_is_not_present_is_vector_11() {
    // Entry 3 of the LDT, selector 0x1F: a data segment that is not present. (Linux, `struct user_desc`.)
    let descriptor: [u32; 4] = [3, 0, 0xF_FFFF, 0b011_0001];
    // SAFETY: it adds a segment that nobody else uses.
    let added = unsafe {
        libc::syscall(
            libc::SYS_modify_ldt,
            1,
            descriptor.as_ptr(),
            size_of_val(&descriptor),
        )
    };
    if added != 0 {
        eprintln!("skipped: this host's kernel has no modify_ldt");
        return;
    }
    with_each_switch(|host| {
        let stack = Stack::new();
        let mut user = program(switchyard_fault_selector, &stack, Fpu::Shared);
        user.context_mut().rax = 0x1F;
        // SAFETY: the load faults and changes nothing.
        assert_eq!(unsafe { host.run(&mut user) }, Ok(Trap::Exception(11)));
        assert_eq!(user.context().error_code, 0x1C);
    });
}

#[test]
fn a_call_without_a_stack_is_a_fault_of_the_users() {
    with_each_switch(|host| {
        for unusable in [0u64, 8, 0x7FFF_FFFF_E000] {
            let stack = Stack::new();
            let mut user = program(switchyard_test_count, &stack, Fpu::Shared);
            let entry = user.entry();
            set_general(user.context_mut(), pattern(9));
            let context = user.context_mut();
            // It jumps to the entry, so nothing has looked at its stack before.
            context.rip = entry;
            context.rsp = unusable;
            let before = *context;
            let state = HostState::now();
            // SAFETY: the entry's first instruction faults.
            let trap = unsafe { host.run(&mut user) };
            assert_eq!(HostState::now(), state);
            assert_eq!(trap, Ok(Trap::Exception(14)));
            let after = user.context();
            assert_eq!(general(after), general(&before));
            assert_eq!(
                (after.rip, after.rsp, after.cr2),
                (entry, unusable, unusable)
            );
        }
    });
}

#[test]
fn thousands_of_faults_leave_nothing_behind() {
    with_each_switch(|host| {
        let stack = Stack::new();
        let state = HostState::now();
        let mut user = program(switchyard_test_count, &stack, Fpu::Own);
        let entry = user.entry();
        for round in 0..5000u64 {
            let context = user.context_mut();
            context.rip = if round % 2 == 0 {
                0x1000
            } else {
                switchyard_test_count as *const () as u64
            };
            (context.rdi, context.rsp) = (entry, stack.top());
            let want = if round % 2 == 0 {
                Trap::Exception(14)
            } else {
                Trap::SystemCall
            };
            // SAFETY: a jump to nowhere, or the program that counts and calls.
            assert_eq!(unsafe { host.run(&mut user) }, Ok(want));
        }
        assert_eq!(HostState::now(), state);
    });
}
