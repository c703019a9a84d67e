//! ELF files, as each of the four that read them does: the loader (a kernel), the kernel (`init`, and its own symbols), the SDK (any
//! program). What was accepted is loaded.

use abi::layout::{USER_END, USER_START};
use boot_core::addr::{PAGE_SIZE, VirtAddr};
use boot_core::elf::Plan as KernelPlan;
use boot_core::protocol::FEATURES;
use boot_core::reloc;
use boot_core::request::Requests;
use kernel::boot::image::Image;
use kernel::symbols::Symbols;
use rt::loader::{Image as Shared, MOST_BYTES, Plan, places};

use crate::{is_one_line, lies_in};

/// Images above that are planned and not loaded: a file of a few bytes may ask for gigabytes of zeros.
const MOST_LOADED: u64 = 1 << 20;

/// Reads a file in each way.
///
/// # Panics
/// If one of the readers accepted what could not be loaded.
pub fn check(file: &[u8]) {
    kernel_to_boot(file);
    first_program(file);
    program(file);
    symbols(file);
}

/// `boot/core/src/elf.rs` and what comes after it: relocations and requests.
fn kernel_to_boot(file: &[u8]) {
    let plan = match KernelPlan::new(file) {
        Ok(plan) => plan,
        Err(fault) => return is_one_line(&fault),
    };
    assert!(plan.size > 0 && plan.size.is_multiple_of(PAGE_SIZE));
    assert!(plan.virtual_base.0.checked_add(plan.size).is_some());
    for segment in &plan.segments {
        assert!(segment.file_offset + segment.file_size <= file.len() as u64);
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.image_offset + segment.memory_size <= plan.size);
    }
    let mut end = 0;
    for run in plan.page_runs() {
        assert!(run.offset >= end, "runs of pages overlap");
        assert!(run.length > 0 && (run.offset | run.length).is_multiple_of(PAGE_SIZE));
        end = run.offset + run.length;
    }
    assert!(end <= plan.size);
    if let Err(fault) = plan.check_entry(plan.entry) {
        is_one_line(&fault);
    }
    if plan.size > MOST_LOADED {
        return;
    }
    let mut image = vec![0xCC; plan.size as usize];
    let (_, too_small) = image.split_first_mut().expect("an image has pages");
    assert!(plan.load(file, too_small).is_err());
    plan.load(file, &mut image)
        .expect("it was planned for this file");
    if let Err(fault) = reloc::apply(&plan, &mut image) {
        return is_one_line(&fault);
    }
    let requests = match Requests::scan(&plan, &image) {
        Ok(requests) => requests,
        Err(fault) => return is_one_line(&fault),
    };
    assert!(requests.count() <= FEATURES.len());
    if let Ok(entry) = requests.entry_point(&plan, &image) {
        assert!(plan.offset_of(entry, 1).is_some());
    }
    if let Ok(bytes) = requests.stack_size(&image) {
        assert!(bytes >= 64 << 10 && bytes.is_multiple_of(16));
    }
    let _ = requests.check_paging_mode(&image);
    for (feature, ..) in FEATURES {
        requests.respond(&mut image, *feature, VirtAddr(u64::MAX));
    }
    requests.answer_tag(&mut image);
}

/// `kernel/src/boot/image.rs`: the one program that the kernel itself loads.
fn first_program(file: &[u8]) {
    let image = match Image::parse(file) {
        Ok(image) => image,
        Err(error) => return is_one_line(&error),
    };
    let mut entered = 0;
    let mut pages: Vec<(u64, u64)> = Vec::new();
    for segment in image.segments() {
        let end = segment.address + segment.bytes;
        assert!(segment.address >= USER_START && end <= USER_END);
        assert!((segment.address | segment.bytes).is_multiple_of(PAGE_SIZE));
        assert!(segment.skip + segment.contents.len() as u64 <= segment.bytes);
        assert!(lies_in(segment.contents, file));
        let protection = segment.protection;
        assert!(!(protection.writable() && protection.executable()));
        let has_entry = (segment.address..end).contains(&image.entry());
        entered += u32::from(has_entry && protection.executable());
        pages.push((segment.address, end));
    }
    assert_eq!(entered, 1, "where it begins");
    are_apart(pages);
}

/// `servers/rt/src/loader`: any other program.
fn program(file: &[u8]) {
    let plan = match Plan::new(file) {
        Ok(plan) => plan,
        Err(error) => return is_one_line(&error),
    };
    let most = places(plan.mode).image_end;
    let mut pages = Vec::new();
    let mut entered = 0;
    for segment in &plan.segments {
        let (start, end) = (segment.address, segment.address + segment.memory_bytes);
        assert!(start >= USER_START && end <= most && start < end);
        assert!(segment.file_offset + segment.file_bytes <= file.len());
        assert!(segment.file_bytes as u64 <= segment.memory_bytes);
        let protection = segment.protection;
        assert!(!(protection.writable() && protection.executable()));
        entered += u32::from(protection.executable() && (start..end).contains(&plan.entry));
        pages.push((start & !(PAGE_SIZE - 1), end.next_multiple_of(PAGE_SIZE)));
    }
    assert_eq!(entered, 1, "where it begins");
    let bytes: u64 = pages.iter().map(|(start, end)| end - start).sum();
    assert!(bytes <= MOST_BYTES);
    are_apart(pages);
    if bytes <= MOST_LOADED {
        // What processes share is filled here, relocated words and all.
        Shared::new(&plan, file).expect("it was planned for this file");
    }
}

/// `kernel/src/symbols.rs`: names for a panic's report, where there may be no second one.
fn symbols(file: &[u8]) {
    let symbols = match Symbols::parse(file) {
        Ok(symbols) => symbols,
        Err(error) => return is_one_line(&error),
    };
    let entry = file.get(24..32).and_then(|bytes| bytes.try_into().ok());
    for address in [0, 0x1000, entry.map_or(0, u64::from_le_bytes), u64::MAX] {
        if let Some(symbol) = symbols.lookup(address) {
            assert!(symbol.offset <= address && lies_in(symbol.name.as_bytes(), file));
            let _ = symbol.to_string();
        }
    }
}

/// No two of these ranges share an address.
fn are_apart(mut ranges: Vec<(u64, u64)>) {
    ranges.sort_unstable();
    assert!(ranges.is_sorted_by(|before, after| before.1 <= after.0));
}
