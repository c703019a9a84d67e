//! Registers of calls, and of contexts that are set.

use abi::compat::BLOCK_FORM;
use abi::segment::DataSegment;
use abi::{Call, DebugRegisters, Tag, Watch, Width, general};
use arch::context::{FIXED_FLAGS, USER_CODE32, USER_CODE64, USER_DATA};

use crate::calls::Input;

const NOTHING: Input = Input {
    registers: [0; general::COUNT],
    block: [0; 10],
    results: [0; 3],
    frame: [0; 6],
    selectors: 0,
    slots: [0; 3],
    debug: [0; 6],
};

/// A call with its arguments, in the order of their registers.
fn call(number: u64, arguments: &[u64]) -> Input {
    let mut input = NOTHING;
    input.registers[general::RAX] = number;
    let places = [
        general::RDI,
        general::RSI,
        general::RDX,
        general::R10,
        general::R8,
        general::R9,
    ];
    for (place, argument) in places.into_iter().zip(arguments) {
        input.registers[place] = *argument;
    }
    input
}

/// A message by `call`.
fn message(tag: Tag) -> Input {
    call(Call::Call as u64, &[1 << 32 | 1, tag.0, 1, 2, 3, 4])
}

/// A call of 32-bit code.
fn of_32_bits(number: u32) -> Input {
    let mut input = NOTHING;
    input.registers[general::RAX] = u64::from(number) | 0xDEAD_BEEF << 32;
    input.registers[general::RBX] = 0x1111_1111;
    input.registers[general::RCX] = 0xFFFF_FFFF;
    input.registers[general::RBP] = u64::MAX;
    input.registers[general::R15] = u64::MAX;
    input.block = core::array::from_fn(|index| u64::MAX - index as u64);
    input.results = [1 << 63, 2, 3 << 32];
    input
}

/// A context that may be set: RIP, CS, RFLAGS, SS and the bases.
fn context(rip: u64, cs: u16, ss: u16) -> Input {
    let mut input = NOTHING;
    input.registers[general::RSP] = 0x7FFF_0000;
    input.frame = [rip, cs.into(), FIXED_FLAGS, ss.into(), 0x1000, 0];
    input
}

/// Debug registers with one breakpoint.
fn breakpoint(address: u64, control: u64) -> Input {
    let mut input = NOTHING;
    input.debug = [address, 0, 0, 0, 0, control];
    input
}

pub(super) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let inputs = calls().into_iter().chain(states());
    inputs
        .map(|(name, input)| (name, input.to_bytes()))
        .collect()
}

/// Calls.
fn calls() -> Vec<(&'static str, Input)> {
    vec![
        ("nothing", NOTHING),
        (
            "handle_close",
            call(Call::HandleClose as u64, &[1 << 32 | 1]),
        ),
        (
            "handle_of_a_closed_one",
            call(Call::HandleClose as u64, &[1 << 32]),
        ),
        (
            "handle_out_of_table",
            call(Call::HandleClose as u64, &[u64::MAX, 0xFFFF]),
        ),
        (
            "memory_map",
            call(
                Call::MemoryMap as u64,
                &[0, 1 << 32 | 1, 0x20_0000, 0, 4096, 3],
            ),
        ),
        (
            "memory_map_wraps",
            call(Call::MemoryMap as u64, &[0, 1, u64::MAX, 4096, u64::MAX, 7]),
        ),
        (
            "memory_create_flags",
            call(Call::MemoryCreate as u64, &[4096, 1, 3, 4]),
        ),
        (
            "buffer_at_the_end",
            call(Call::LogWrite as u64, &[1, 0x7FFF_FFFF_E000, 4096]),
        ),
        (
            "buffer_past_the_end",
            call(Call::LogWrite as u64, &[1, 0x7FFF_FFFF_E000, 4097]),
        ),
        (
            "priority_and_rate",
            call(Call::IrqLimit as u64, &[1, 2000, 10_000_000, 63, 64]),
        ),
        ("number_past_the_table", call(9999, &[])),
        ("number_with_high_bits", call(1 << 32, &[])),
        ("number_negative", call(u64::MAX, &[])),
        ("tag_plain", message(Tag::new(7))),
        (
            "tag_with_bytes",
            message(Tag::new(7).with_bytes(4096).taking_handles()),
        ),
        (
            "tag_with_handles",
            message(Tag::new(7).with_handles(4, 0b1010).with_bytes(9)),
        ),
        (
            "tag_with_one_moved",
            message(Tag::new(u32::MAX).with_handles(1, 1)),
        ),
        ("tag_too_many_bytes", message(Tag::new(7).with_bytes(4097))),
        (
            "tag_too_many_handles",
            message(Tag::new(7).with_handles(5, 0)),
        ),
        (
            "tag_moves_what_is_not_there",
            message(Tag::new(7).with_handles(1, 0b10)),
        ),
        ("tag_reserved", message(Tag(0xFE08_E000))),
        ("registers_of_32_bits", of_32_bits(Call::ClockNow as u32)),
        (
            "block_of_32_bits",
            of_32_bits(Call::Call as u32 | BLOCK_FORM),
        ),
        ("block_unknown", of_32_bits(u32::MAX)),
    ]
}

/// A thread's state that somebody sets.
fn states() -> Vec<(&'static str, Input)> {
    let flat = DataSegment::flat(0x1000).descriptor();
    let mut own_segments = context(0x20_0000, USER_CODE32, 0x43);
    own_segments.slots = [flat, flat, 0];
    own_segments.selectors = 0x43 | 0x4B << 16 | 3 << 32;
    let mut cpu_number = own_segments.clone();
    cpu_number.selectors = 0x58 | 0x5B << 48;
    let mut empty_slot = own_segments.clone();
    empty_slot.selectors = 0x53;
    let mut bad_slots = NOTHING;
    // Code, a system segment, one for the kernel.
    bad_slots.slots = [flat | 1 << 43, flat & !(1 << 44), flat & !(3 << 45)];
    let mut bad_base = context(0x20_0000, USER_CODE64, USER_DATA);
    bad_base.frame[4] = 1 << 47;
    let mut all_flags = context(0x20_0000, USER_CODE64, USER_DATA);
    all_flags.frame[2] = u64::MAX;
    let watch = DebugRegisters::enable(0, Watch::Write(Width::Eight));
    vec![
        ("context_64", context(0x20_0000, USER_CODE64, USER_DATA)),
        ("context_32", context(0x20_0000, USER_CODE32, USER_DATA)),
        ("context_own_segments", own_segments),
        ("context_cpu_number", cpu_number),
        ("context_empty_slot", empty_slot),
        (
            "context_rip_of_the_kernel",
            context(1 << 47, USER_CODE64, USER_DATA),
        ),
        (
            "context_rip_too_high_for_32",
            context(1 << 32, USER_CODE32, USER_DATA),
        ),
        ("context_cs_of_the_kernel", context(0x20_0000, 8, USER_DATA)),
        ("context_ss_null", context(0x20_0000, USER_CODE64, 3)),
        ("context_base_not_canonical", bad_base),
        ("context_all_flags", all_flags),
        ("descriptors_unfit", bad_slots),
        ("breakpoint", breakpoint(0x20_0000, watch)),
        ("breakpoint_misaligned", breakpoint(0x20_0001, watch)),
        ("breakpoint_in_the_kernel", breakpoint(u64::MAX - 7, watch)),
        ("breakpoint_on_ports", breakpoint(0x20_0000, 1 | 0b10 << 16)),
        ("breakpoint_general_detect", breakpoint(0, 1 << 13)),
    ]
}
