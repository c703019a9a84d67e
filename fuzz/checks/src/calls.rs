//! System calls as their registers say them: number, handles, tag, buffers, flags, and the structures that some point to, by both register
//! maps. All of it is an allegation of the caller's; here is everything that judges it without a machine.
//!
//! An input is a row of 64-bit words, the lowest byte first; those that are missing are 0. See [`Input`] for which is what.

use std::cell::RefCell;

use abi::compat::{BLOCK_FORM, BLOCK_WORDS};
use abi::info::{PowerAction, SystemQuery, ThreadEnd, ThreadState};
use abi::ipc_area::{BUFFER_BYTES, MAX_HANDLES};
use abi::irq::Rate;
use abi::layout::USER_END;
use abi::report::{Answer, PageAccess, ReportKind};
use abi::segment::{TLS_SLOTS, tls_selector};
use abi::trace::TraceKind;
use abi::{
    Badge, Call, ContextPart, CpuSet, DebugRegisters, FaultKind, Handle, Load, MemoryFlags,
    Priority, Protection, Rights, Tag, UserContext, general,
};
use arch::context::{
    FIXED_FLAGS, USER_CODE32, USER_CODE64, USER_DATA, USER_FLAGS, cut_to_32_bits, is_canonical,
    sanitise,
};
use arch::debug_registers;
use arch::segments::TlsSlots;
use kernel::compat;
use kernel::memory::frames;
use kernel::memory::map::{MemoryKind, MemoryRange};
use kernel::memory::user::UserSlice;
use kernel::object::{AnyObject, Capability, HandleTable};
use sched::Affinity;

/// Handles in the caller's table, each with another badge.
const HANDLES: u64 = 3;
/// The selector of the slot whose limit is the CPU's index, which all user code may load (`arch/src/cpu/gdt.rs`).
const CPU_NUMBER: u16 = 0x58 | 3;
/// Where the memory of the kernel's frames begins, as it sees it, and how much there is.
const RAM_START: u64 = 1 << 32;
const RAM_BYTES: u64 = 1 << 20;

/// An input, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The general registers at their numbers ([`general`]).
    pub registers: [u64; general::COUNT],
    /// The words of the block form.
    pub block: [u64; BLOCK_WORDS],
    /// What the call leaves in the registers, where this is 32-bit code's.
    pub results: [u64; 3],
    /// RIP, CS, RFLAGS, SS, FS base, GS base.
    pub frame: [u64; 6],
    /// DS, ES, FS and GS, 16 bits each.
    pub selectors: u64,
    /// Descriptors of the thread's own.
    pub slots: [u64; TLS_SLOTS],
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
}

impl Input {
    /// Takes an input apart.
    pub fn from_bytes(bytes: &[u8]) -> Input {
        let mut words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let mut next = || words.next().unwrap_or(0);
        // Elements of an array are made in their order, and so are fields as they are written here.
        Input {
            registers: core::array::from_fn(|_| next()),
            block: core::array::from_fn(|_| next()),
            results: core::array::from_fn(|_| next()),
            frame: core::array::from_fn(|_| next()),
            selectors: next(),
            slots: core::array::from_fn(|_| next()),
            debug: core::array::from_fn(|_| next()),
        }
    }

    /// Puts it together again, without zeros at the end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = self
            .registers
            .iter()
            .chain(&self.block)
            .chain(&self.results);
        let words = words.chain(&self.frame).chain([&self.selectors]);
        let words = words.chain(&self.slots).chain(&self.debug);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(
            bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1),
        );
        bytes
    }

    fn context(&self) -> UserContext {
        let [rip, cs, rflags, ss, fs_base, gs_base] = self.frame;
        let [ds, es, fs, gs] = [0, 16, 32, 48].map(|shift| (self.selectors >> shift) as u16);
        let mut context = UserContext {
            rip,
            cs,
            rflags,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
            ..UserContext::default()
        };
        context.set_general(&self.registers);
        context
    }
}

/// Judges registers as a call's, by the map of 64-bit code and by that of 32-bit code, and as a context that somebody sets.
///
/// # Panics
/// If something was accepted that it must not be, or did not come back as it was.
pub fn check(bytes: &[u8]) {
    let input = Input::from_bytes(bytes);
    let context = input.context();
    called(context.rax, &context);
    compat(&input, context);
    tag(Tag(context.rsi));
    let arguments = [
        context.rdi,
        context.rsi,
        context.rdx,
        context.r10,
        context.r8,
        context.r9,
    ];
    for pair in arguments.windows(2) {
        buffer(pair[0], pair[1]);
        rate(pair[0], pair[1]);
    }
    for argument in arguments {
        words(argument);
        handle(Handle(argument));
    }
    handle(Handle(context.r15));
    affinity(&input.block);
    let slots = slots(&input.slots);
    set_context(context, &slots);
    debug(&input.debug);
}

/// The number, judged as a whole register.
fn called(number: u64, registers: &UserContext) {
    let known = Call::ALL.iter().find(|&&call| call as u64 == number);
    assert_eq!(Call::from_number(number), known.copied());
    if let Some(call) = known {
        assert!(!call.name().is_empty());
    }
    assert_eq!(registers.rax, number);
}

/// The map of 32-bit code, there and back.
fn compat(input: &Input, mut context: UserContext) {
    cut_to_32_bits(&mut context);
    let before = context;
    let mut read = [0; BLOCK_WORDS];
    let form = compat::take_in(&mut context, |index| {
        read[index] += 1;
        input.block[index]
    });
    let in_block = before.rax as u32 & BLOCK_FORM != 0;
    assert_eq!(read, [u32::from(in_block); BLOCK_WORDS], "each word once");
    assert_eq!(context.call_number, before.rax & u64::from(!BLOCK_FORM));
    called(context.rax, &context);
    if in_block {
        assert_eq!((context.rdi, context.r15), (input.block[0], input.block[9]));
    } else {
        assert_eq!(context.rdi, before.rbx | before.rcx << 32);
        assert_eq!(context.r14, u64::MAX, "no deadline");
    }
    // A call that succeeded, with whatever it left.
    context.rax = 0;
    [context.rdi, context.rsi, context.rdx] = input.results;
    context.r12 = input.results[0];
    let mut written = [0; BLOCK_WORDS];
    compat::give_back(&mut context, form, |index, word| written[index] = word);
    let values = context.general();
    assert!(values.iter().all(|&value| value >> 32 == 0), "upper halves");
    assert!(values[general::COUNT_32..].iter().all(|&value| value == 0));
    if in_block {
        assert_eq!(written[..3], input.results);
        let mut kept = before;
        (kept.rax, kept.call_number) = (0, context.call_number);
        assert_eq!(context, kept, "registers of the block form are kept");
    } else {
        assert_eq!(context.rbx | context.rcx << 32, input.results[0]);
        assert_eq!(context.rdx | context.rsi << 32, input.results[1]);
        assert_eq!(context.rdi | context.rbp << 32, input.results[2]);
    }
}

/// A message's tag.
fn tag(tag: Tag) {
    let _ = Answer::from_label(tag.label());
    match tag.check() {
        Ok(same) => {
            assert_eq!(same, tag);
            assert!(tag.bytes() <= BUFFER_BYTES && tag.handles() <= MAX_HANDLES);
            let moved = (0..8).filter(|&index| tag.moves(index));
            assert!(moved.clone().all(|index| index < tag.handles()));
            let moved = moved.fold(0, |set, index| set | 1 << index);
            let mut again = Tag::new(tag.label())
                .with_bytes(tag.bytes())
                .with_handles(tag.handles(), moved);
            if tag.takes_handles() {
                again = again.taking_handles();
            }
            assert_eq!(again, tag, "a tag is its fields");
            let is_light = matches!((tag.handles(), moved), (0, 0) | (1, 1));
            assert_eq!(tag.load() != Load::Other, is_light);
        }
        Err(_) => assert!(tag.load() == Load::Other && !tag.is_plain()),
    }
}

/// A buffer in the caller's memory.
fn buffer(address: u64, bytes: u64) {
    let Ok(slice) = UserSlice::new(address, bytes) else {
        let end = u128::from(address) + u128::from(bytes);
        assert!(end > u128::from(USER_END));
        return;
    };
    assert_eq!((slice.address(), slice.len() as u64), (address, bytes));
    assert!(address <= USER_END && bytes <= USER_END - address);
    for part in [0, 1, 4096, usize::MAX] {
        let (first, after) = (slice.first(part), slice.after(part));
        assert_eq!(first.len() + after.len(), slice.len());
        assert_eq!(first.address(), address);
        assert_eq!(after.address() + after.len() as u64, address + bytes);
    }
}

/// Words that choose one of several.
fn words(word: u64) {
    macro_rules! comes_back {
        ($($type:ty),*) => {$(
            if let Some(value) = <$type>::from_number(word) {
                assert_eq!(value as u64, word);
            }
        )*};
    }
    comes_back!(
        ContextPart,
        ReportKind,
        PageAccess,
        SystemQuery,
        PowerAction,
        ThreadEnd
    );
    if let Some(priority) = Priority::new(word) {
        assert_eq!(u64::from(priority.level()), word);
    }
    if let Some(protection) = Protection::from_bits(word) {
        assert!(!(protection.writable() && protection.executable()));
        assert!(Rights::ALL.contains(protection.needs()));
    }
    if let Some(flags) = MemoryFlags::from_bits(word) {
        assert_eq!(u64::from(flags.0), word);
    }
    let low = word as u32;
    assert!(TraceKind::from_number(low).is_none_or(|kind| kind as u32 == low));
    assert!(ThreadState::from_number(low).is_none_or(|state| state as u32 == low));
    assert!(!FaultKind::from_vector(word).text().is_empty());
}

/// How fast an interrupt may come.
fn rate(count: u64, period_ns: u64) {
    if let Some(rate) = Rate::new(count, period_ns) {
        assert!(rate.count > 0 && rate.period_ns <= Rate::LONGEST_NS);
        let fastest = u128::from(Rate::HIGHEST.count) * u128::from(period_ns);
        assert!(u128::from(count) * u128::from(Rate::HIGHEST.period_ns) <= fastest);
    }
}

/// Where a thread may run.
fn affinity(given: &[u64; BLOCK_WORDS]) {
    let affinity = Affinity::from_words(given);
    let mut set = CpuSet::NONE;
    for (word, given) in set.words.iter_mut().zip(given) {
        *word = *given;
    }
    for cpu in (0..CpuSet::MAX_CPUS).chain([u32::MAX]) {
        assert!(!affinity.allows(cpu) || set.has(cpu));
    }
    assert_eq!(affinity.allows_any_of(1), given[0] & 1 != 0);
    assert!(!affinity.allows_any_of(0));
}

/// A handle, genuine or made up.
fn handle(handle: Handle) {
    thread_local! {
        static TABLE: RefCell<(HandleTable, Vec<Handle>)> = RefCell::new(table());
    }
    TABLE.with_borrow_mut(|(table, handles)| {
        let badge = table.get(handle).map(|found| found.badge().0);
        let genuine = handles.iter().position(|&one| one == handle);
        assert_eq!(badge.ok(), genuine.map(|place| place as u64));
        if genuine.is_none() {
            assert!(
                table.remove(handle).is_err(),
                "what is none can't be closed"
            );
        }
    });
}

/// A table with a few handles, of which one was closed and its slot used again.
fn table() -> (HandleTable, Vec<Handle>) {
    memory();
    let mut table = HandleTable::new(64, None);
    let mut insert = |badge| {
        let capability = Capability::new(AnyObject::Log, Rights::ALL, Badge(badge));
        let inserted = table.insert(capability);
        inserted.map_err(|(error, _)| error).expect("there is room")
    };
    let closed = insert(99);
    let mut handles: Vec<Handle> = (1..HANDLES).map(&mut insert).collect();
    assert!(table.remove(closed).is_ok());
    let capability = Capability::new(AnyObject::Log, Rights::ALL, Badge(0));
    let again = table.insert(capability).map_err(|(error, _)| error);
    handles.insert(0, again.expect("there is room"));
    (table, handles)
}

/// Gives the kernel's tables memory to grow in, once.
fn memory() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let ram = vec![0_u8; (RAM_BYTES + 4096) as usize].leak();
        let base = (ram.as_ptr() as u64).next_multiple_of(4096);
        // SAFETY: the memory is never given back, nobody else uses it, and this is before anything is asked of the frames.
        unsafe { arch::memory::set_direct_map(base.wrapping_sub(RAM_START)) };
        let range = MemoryRange {
            start: RAM_START / 4096,
            frames: RAM_BYTES / 4096,
            kind: MemoryKind::Usable,
        };
        frames::init([range].into_iter()).expect("there is memory");
    });
}

/// Descriptors of the thread's own: those that are fit.
fn slots(descriptors: &[u64; TLS_SLOTS]) -> TlsSlots {
    let mut slots = TlsSlots::EMPTY;
    for (slot, &descriptor) in descriptors.iter().enumerate() {
        let before = slots;
        if slots.set(slot, descriptor).is_err() {
            assert_eq!(slots, before, "nothing is changed then");
        } else if descriptor != 0 {
            // Present, for user code, data and no system segment (Intel SDM vol. 3A §3.4.5).
            assert_eq!(slots.descriptors()[slot] >> 44 & 0b1111, 0b1111);
            assert_eq!(slots.descriptors()[slot] >> 43 & 1, 0, "no code");
        }
    }
    assert!(slots.set(TLS_SLOTS, 0).is_err());
    slots
}

/// A context that a supervisor sets.
fn set_context(mut context: UserContext, slots: &TlsSlots) {
    let asked = context;
    if let Err(error) = sanitise(&mut context, slots) {
        assert!(!error.to_string().is_empty());
        return;
    }
    let is_64_bit = context.cs == u64::from(USER_CODE64);
    assert!(is_64_bit || context.cs == u64::from(USER_CODE32));
    assert!(context.rip < if is_64_bit { USER_END } else { 1 << 32 });
    for address in [context.rsp, context.fs_base, context.gs_base] {
        assert!(is_canonical(address));
    }
    let is_users = |selector: u16| {
        let own = slots.descriptors().iter().enumerate();
        let mut filled = own.filter(|(_, descriptor)| **descriptor != 0);
        matches!(
            selector | 3,
            3 | USER_CODE32 | USER_DATA | USER_CODE64 | CPU_NUMBER
        ) || filled.any(|(slot, _)| tls_selector(slot) == Some(selector | 3))
    };
    let selectors = [context.ds, context.es, context.fs, context.gs];
    assert!(selectors.into_iter().all(is_users));
    assert!(u16::try_from(context.ss).is_ok_and(|ss| ss > 3 && ss != CPU_NUMBER && is_users(ss)));
    assert_eq!(context.ss & 3, 3);
    assert_eq!(context.rflags & !(USER_FLAGS | FIXED_FLAGS), 0);
    assert_eq!(context.rflags & FIXED_FLAGS, FIXED_FLAGS);
    let flags = context.rflags;
    assert_eq!(
        UserContext {
            rflags: flags,
            ..asked
        },
        context
    );
    let once = context;
    assert!(sanitise(&mut context, slots).is_ok() && context == once);
}

/// Debug registers that a debugger sets.
fn debug(words: &[u64; 6]) {
    let [a, b, c, d, status, control] = *words;
    let asked = DebugRegisters {
        address: [a, b, c, d],
        status,
        control,
    };
    let Ok(kept) = debug_registers::check(&asked) else {
        return;
    };
    assert!(kept.address.iter().all(|&address| address < USER_END));
    assert_eq!(kept.control & 1 << 13, 0, "no general detect");
    assert_eq!(debug_registers::check(&kept), Ok(kept));
    for index in 0..4 {
        let kind = kept.control >> (16 + 4 * index) & 0b11;
        assert_ne!(kind, 0b10, "no ports");
    }
    let hit = debug_registers::relevant(u64::MAX, &kept);
    assert_eq!(hit & !(debug_registers::HITS | debug_registers::STEP), 0);
}
