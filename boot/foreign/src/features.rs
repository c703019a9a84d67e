//! Responses that stand for themselves.

use crate::report::Report;
use crate::requests::{self, REVISION, loaded_revision};
use crate::walk::{byte, hhdm, translate, word};

/// The highest base revision there is.
const NEWEST: u64 = 6;

/// The text at `at`, up to 255 bytes.
pub fn text(at: u64, buffer: &mut [u8; 256]) -> &str {
    let mut length = 0;
    while length < 255 {
        buffer[length] = byte(at + length as u64);
        if buffer[length] == 0 {
            break;
        }
        length += 1;
    }
    core::str::from_utf8(&buffer[..length]).unwrap_or("not text")
}

/// Whether the command line has the word `wanted`.
pub fn told(wanted: &str) -> bool {
    let mut buffer = [0; 256];
    let Some(at) = requests::CMDLINE.response() else {
        return false;
    };
    text(word(at + 8), &mut buffer)
        .split(' ')
        .any(|w| w == wanted)
}

/// Whether the machine has no UEFI, by the command line.
fn on_bios() -> bool {
    told("firmware=bios")
}

/// A response's words after its revision.
fn fields<const N: usize>(
    report: &mut Report,
    name: &str,
    request: Option<u64>,
) -> Option<[u64; N]> {
    report.check(name, request.is_some(), format_args!("no response"));
    request.map(|at| core::array::from_fn(|n| word(at + 8 + n as u64 * 8)))
}

/// Checks all of them.
pub fn check(report: &mut Report) {
    base_revision(report);
    loader(report);
    framebuffer(report);
    firmware(report);
    report.check(
        "entry_point_request",
        requests::ENTRY.answered(),
        format_args!("no response"),
    );
    let silent = requests::DTB.response().is_none() && requests::UNKNOWN.response().is_none();
    report.check(
        "unserved_requests_are_untouched",
        silent,
        format_args!("a response appeared"),
    );
}

fn base_revision(report: &mut Report) {
    let given = requests::TAG.word(1);
    let third = requests::TAG.word(2);
    if REVISION <= NEWEST {
        report.equal("requested_revision_is_confirmed", third, 0);
        report.equal("given_revision_is_the_requested", given, REVISION);
    } else {
        report.equal("unknown_revision_is_left_standing", third, REVISION);
        report.check(
            "given_revision_is_known",
            (3..=NEWEST).contains(&given),
            format_args!("{given:#x}"),
        );
    }
    if loaded_revision() >= 2 {
        let seen = requests::OUTSIDE.response().is_some();
        report.check(
            "delimiters_are_honoured",
            !seen,
            format_args!("a request before the start was answered"),
        );
    }
}

fn loader(report: &mut Report) {
    let mut buffers = [[0; 256]; 2];
    if let Some([name, version]) =
        fields(report, "bootloader_info", requests::BOOTLOADER.response())
    {
        let [first, second] = &mut buffers;
        let (name, version) = (text(name, first), text(version, second));
        report.check(
            "bootloader_has_a_name",
            !name.is_empty() && !version.is_empty(),
            format_args!("empty"),
        );
    }
    if let Some([kind]) = fields(report, "firmware_type", requests::FIRMWARE_TYPE.response()) {
        let wanted = if on_bios() { 0 } else { 2 };
        report.equal("firmware_is_named", kind, wanted);
    }
    fields::<0>(report, "stack_size", requests::STACK_SIZE.response());
    if let Some([offset]) = fields(report, "hhdm", requests::HHDM.response()) {
        let upper = offset >= 0xffff_8000_0000_0000 && offset.is_multiple_of(4096);
        report.check(
            "hhdm_is_in_the_upper_half",
            upper,
            format_args!("{offset:#x}"),
        );
    }
    if let Some([mode]) = fields(report, "paging_mode", requests::PAGING.response()) {
        report.equal("paging_mode_is_4_level", mode, 0);
    }
    if let Some([seconds]) = fields(report, "date_at_boot", requests::DATE.response()) {
        // From 2020 to 2100.
        let sane = (1_577_836_800..4_102_444_800).contains(&seconds);
        report.check("date_is_sane", sane, format_args!("{seconds}"));
    }
}

fn framebuffer(report: &mut Report) {
    if told("framebuffer=no") {
        let silent = requests::FRAMEBUFFER.response().is_none();
        report.check(
            "no_framebuffer_no_response",
            silent,
            format_args!("there is one"),
        );
        return;
    }
    let Some(at) = requests::FRAMEBUFFER.response() else {
        return report.check("framebuffer", false, format_args!("no response"));
    };
    let (revision, count, array) = (word(at), word(at + 8), word(at + 16));
    report.check("framebuffer", count >= 1, format_args!("count {count}"));
    let frame = word(array);
    let field = |n: u64| word(frame + n * 8);
    let (address, width, height, pitch) = (field(0), field(1), field(2), field(3));
    let packed = field(4);
    let (bpp, model) = (packed & 0xffff, packed >> 16 & 0xff);
    report.check(
        "framebuffer_has_a_sane_size",
        width > 0 && height > 0 && pitch >= width * bpp / 8,
        format_args!("{width}x{height} pitch {pitch}"),
    );
    report.check(
        "framebuffer_is_32_bit_rgb",
        bpp == 32 && model == 1,
        format_args!("{packed:#x}"),
    );
    let masks = [packed >> 24, packed >> 40, packed >> 56].map(|m| m & 0xff);
    report.check(
        "framebuffer_masks",
        masks == [8, 8, 8],
        format_args!("{masks:?}"),
    );

    let last = address + pitch * height - 1;
    let combining = [address, last]
        .iter()
        .all(|at| translate(*at).is_some_and(|m| m.pat == 5 && m.write));
    report.check(
        "framebuffer_is_write_combining",
        combining,
        format_args!("at {address:#x}"),
    );
    report.check(
        "framebuffer_is_in_the_direct_map",
        address >= hhdm(),
        format_args!("{address:#x}"),
    );
    // SAFETY: the framebuffer's last pixel, mapped writable as was just seen (checked above, so a fault here is a
    // failure already told).
    unsafe { ((last & !3) as *mut u32).write_volatile(0x00ff_ffff) };
    if revision >= 1 {
        let (modes, list) = (field(8), field(9));
        let current = (0..modes).any(|n| {
            let mode = word(list + n * 8);
            word(mode + 8) == width && word(mode + 16) == height
        });
        report.check(
            "video_modes_list_the_current",
            current,
            format_args!("{modes} modes"),
        );
    }
}

/// Eight bytes as text.
const fn signature(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

fn firmware(report: &mut Report) {
    let revision = loaded_revision();
    let physical = |address: u64| address < 0x8000_0000_0000;
    if let Some([address]) = fields(report, "rsdp", requests::RSDP.response()) {
        let wanted = revision == 3;
        report.check(
            "rsdp_address_kind",
            physical(address) == wanted,
            format_args!("{address:#x}"),
        );
        if revision != 3 {
            report.equal("rsdp_signature", word(address), signature(*b"RSD PTR "));
            acpi(report, address, revision);
        }
    }
    let tables_physical = revision == 3 || revision == 4;
    if let Some([short, long]) = fields(report, "smbios", requests::SMBIOS.response()) {
        for (address, magic, bits) in [
            (short, u64::from(u32::from_le_bytes(*b"_SM_")), 32),
            (long, 0x005f_334d_535f, 40),
        ] {
            if address == 0 {
                continue;
            }
            report.check(
                "smbios_address_kind",
                physical(address) == tables_physical,
                format_args!("{address:#x}"),
            );
            if revision >= 5 {
                report.equal("smbios_signature", word(address) & ((1 << bits) - 1), magic);
            }
        }
    }
    if on_bios() {
        let silent =
            requests::EFI_TABLE.response().is_none() && requests::EFI_MAP.response().is_none();
        report.check("no_efi_no_tables", silent, format_args!("there are some"));
        return;
    }
    if let Some([address]) = fields(report, "efi_system_table", requests::EFI_TABLE.response()) {
        report.check(
            "efi_table_address_kind",
            physical(address) == tables_physical,
            format_args!("{address:#x}"),
        );
        if revision >= 5 {
            report.equal(
                "efi_table_signature",
                word(address),
                signature(*b"IBI SYST"),
            );
            // Vendor 24, runtime services 88, table count 104, tables 112 (UEFI specification §4.3).
            let runtime = word(address + 88) + hhdm();
            report.equal(
                "efi_runtime_signature",
                word(runtime),
                signature(*b"RUNTSERV"),
            );
            let (count, tables) = (word(address + 104), word(address + 112) + hhdm());
            let reach = count == 0 || translate(tables + count * 24 - 1).is_some();
            report.check(
                "efi_configuration_tables_are_mapped",
                reach,
                format_args!("{tables:#x}"),
            );
            let vendor = word(address + 24) + hhdm();
            report.check(
                "efi_vendor_is_mapped",
                translate(vendor).is_some(),
                format_args!("{vendor:#x}"),
            );
        }
    }
    if let Some([map, size, step, version]) =
        fields(report, "efi_memory_map", requests::EFI_MAP.response())
    {
        report.check(
            "efi_memory_map_shape",
            step >= 40 && size >= step && size.is_multiple_of(step) && version == 1,
            format_args!("{size} bytes of {step}, version {version}"),
        );
        let conventional = (0..size / step.max(1)).any(|n| word(map + n * step) & 0xffff_ffff == 7);
        report.check(
            "efi_memory_map_has_memory",
            conventional,
            format_args!("at {map:#x}"),
        );
    }
}

/// From base revision 4 on every ACPI table can be read in the direct map.
fn acpi(report: &mut Report, rsdp: u64, revision: u64) {
    if revision < 4 || byte(rsdp + 15) < 2 {
        return;
    }
    let xsdt = word(rsdp + 24) + hhdm();
    let length = |at: u64| word(at) >> 32;
    let mut seen = 0;
    let mut missing = 0;
    for n in 0..(length(xsdt) - 36) / 8 {
        let table = word(xsdt + 36 + n * 8) + hhdm();
        if translate(table).is_none() {
            missing += 1;
            continue;
        }
        missing += u32::from(translate(table + length(table) - 1).is_none());
        seen += 1;
    }
    report.check(
        "acpi_tables_are_mapped",
        missing == 0 && seen > 0,
        format_args!("{missing} missing of {seen}"),
    );
}
