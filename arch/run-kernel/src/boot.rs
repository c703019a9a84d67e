//! From the loader's jump to a CPU that can run contexts: what of `arch` a kernel has to call, in which order.
//!
//! The loader's page tables stay in force; only their lower half is replaced ([`user_space`](crate::user_space)).

use core::arch::naked_asm;
use core::cell::UnsafeCell;

use abi::UserContext;
use arch::addr::{CpuIndex, PhysAddr};
use arch::cpu::{BLOCK_PAGES, CpuBlock, cpu_init, detect, install_boot_block};
use arch::fpu::FpuState;
use arch::memory::{phys_to_virt, set_direct_map};
use arch::platform::{apic, pic, serial};
use arch::switch::{self, ThreadState};
use arch::tlb::Space;
use limine::BaseRevision;
use limine::request::{
    ExecutableAddressRequest, HhdmRequest, RequestsEndMarker, RequestsStartMarker,
};
use spin::Once;

use crate::report::Report;
use crate::{checks, user_space};

#[used]
#[unsafe(link_section = ".limine_requests_start")]
static START: RequestsStartMarker = RequestsStartMarker::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static BASE: BaseRevision = BaseRevision::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static DIRECT_MAP: HhdmRequest = HhdmRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests")]
static ADDRESS: ExecutableAddressRequest = ExecutableAddressRequest::new();
#[used]
#[unsafe(link_section = ".limine_requests_end")]
static END: RequestsEndMarker = RequestsEndMarker::new();

/// Memory that one owner uses by its address.
#[repr(C, align(4096))]
pub struct Pages<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: there is one CPU, and each static of this type says who uses it.
unsafe impl<const BYTES: usize> Sync for Pages<BYTES> {}

impl<const BYTES: usize> Pages<BYTES> {
    /// Zeroed memory.
    pub const fn new() -> Pages<BYTES> {
        Pages(UnsafeCell::new([0; BYTES]))
    }

    /// Its first byte.
    pub fn start(&self) -> *mut u8 {
        self.0.get().cast()
    }

    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.start() as u64 + BYTES as u64
    }
}

const STACK_BYTES: usize = 64 * 1024;
const IST_BYTES: usize = 8 * 1024;

/// The stack that all of this kernel runs on.
static STACK: Pages<STACK_BYTES> = Pages::new();
/// The CPU's block.
static BLOCK: Pages<{ BLOCK_PAGES as usize * 4096 }> = Pages::new();
/// Its stacks for #DF, NMI, #MC and #DB.
static IST: [Pages<IST_BYTES>; 4] = [const { Pages::new() }; 4];
/// The stack of the thread, which is never switched to.
static THREAD_STACK: Pages<4096> = Pages::new();
/// Its address space.
static SPACE: Once<Space> = Once::new();
static THREAD: Once<ThreadState> = Once::new();

/// Where the loader jumps to, as the Limine protocol has it: 64-bit mode, interrupts off. Gives up the loader's stack.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "cld",
        "lea rsp, [rip + {stack} + {bytes}]",
        "xor ebp, ebp",
        "call {start}",         // RSP is 16-byte aligned here
        "ud2",
        stack = sym STACK,
        bytes = const STACK_BYTES,
        start = sym start,
    )
}

/// The kernel's physical address.
pub fn physical<T>(pointer: *const T) -> PhysAddr {
    let loaded = ADDRESS
        .get_response()
        .expect("the loader says where the image is");
    PhysAddr::new_truncate(pointer as u64 - loaded.virtual_base() + loaded.physical_base())
}

/// The thread whose contexts are run.
pub fn thread() -> &'static ThreadState {
    THREAD.get().expect("made before anything is run")
}

extern "C" fn start() -> ! {
    // SAFETY: this is the only CPU's first code, with interrupts off, on a stack in the image; nothing else uses the port.
    unsafe {
        install_boot_block();
        serial::init();
    }
    let offset = DIRECT_MAP
        .get_response()
        .expect("the loader has a direct map")
        .offset();
    // SAFETY: all RAM is mapped there by the protocol, and stays so.
    unsafe { set_direct_map(offset) };
    detect();
    // SAFETY: nothing has entered the kernel yet; the direct map shows the image writable.
    unsafe { arch::entry::patch(|address| phys_to_virt(physical(address as *const u8))) };
    let tops = IST.each_ref().map(Pages::end);
    // SAFETY: block and stacks are static and this CPU's.
    unsafe {
        let block = CpuBlock::create(BLOCK.start().cast(), CpuIndex(0), &tops, None);
        cpu_init(block).expect("the only CPU is like the first");
    }
    let root = user_space::install();
    // SAFETY: all vectors have handlers; those of the legacy controllers are never allowed in.
    unsafe {
        pic::disable();
        apic::init_boot_cpu(&user_space::Devices).expect("a local APIC");
    }
    // SAFETY: the stack is the thread's, which lives for ever; the context is never run, as nobody switches to the thread.
    unsafe {
        THREAD.call_once(|| {
            ThreadState::for_user(
                THREAD_STACK.end(),
                SPACE.call_once(|| Space::new(root)),
                FpuState::new(),
                UserContext::default(),
            )
        });
        switch::adopt(thread());
    }
    let mut report = Report::new();
    checks::all(&mut report);
    report.end()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::report::say(format_args!("FAIL panic: {info}"));
    crate::report::end_machine(false)
}
