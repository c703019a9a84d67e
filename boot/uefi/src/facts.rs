//! What the firmware knows of the machine: ACPI, SMBIOS, its own tables, the date.

use crate::memory::Mapped;
use boot_core::acpi::{Extent, walk};
use boot_core::addr::PhysAddr;
use boot_core::front::Firmware;
use boot_core::memmap::Region;
use boot_core::{date, smbios};
use uefi::system;
use uefi::table::cfg::ConfigTableEntry;

/// Looks at everything.
pub fn gather(regions: &[Region]) -> Firmware {
    let memory = &Mapped(regions);
    let mut firmware = Firmware::default();
    let mut old_rsdp = None;
    system::with_config_table(|tables| {
        for table in tables {
            let at = PhysAddr(table.address as u64);
            match table.guid {
                ConfigTableEntry::ACPI2_GUID => firmware.rsdp = Some(at),
                ConfigTableEntry::ACPI_GUID => old_rsdp = Some(at),
                ConfigTableEntry::SMBIOS_GUID => firmware.smbios_32 = Some(at),
                ConfigTableEntry::SMBIOS3_GUID => firmware.smbios_64 = Some(at),
                _ => {}
            }
        }
        firmware.extents.push(Extent {
            base: PhysAddr(tables.as_ptr() as u64),
            length: size_of_val(tables) as u64,
        });
    });
    firmware.rsdp = firmware.rsdp.or(old_rsdp);
    if let Some(rsdp) = firmware.rsdp {
        firmware.acpi = walk(memory, rsdp);
    }
    let short = firmware
        .smbios_32
        .and_then(|at| smbios::extents_32(memory, at));
    let long = firmware
        .smbios_64
        .and_then(|at| smbios::extents_64(memory, at));
    firmware
        .extents
        .extend(short.into_iter().chain(long).flatten());

    if let Some(table) = uefi::table::system_table_raw() {
        let base = PhysAddr(table.as_ptr() as u64);
        // SAFETY: the firmware passed this table to the entry point; it stays valid and unwritten while the loader
        // runs.
        let (table, runtime) = unsafe { (table.as_ref(), table.as_ref().runtime_services) };
        firmware.system_table = Some(base);
        firmware.extents.push(Extent {
            base,
            length: table.header.size.into(),
        });
        if !runtime.is_null() {
            // SAFETY: as above; the system table points to its runtime services table.
            let length = unsafe { (*runtime).header.size };
            firmware.extents.push(Extent {
                base: PhysAddr(runtime as u64),
                length: length.into(),
            });
        }
        let vendor = system::firmware_vendor();
        firmware.extents.push(Extent {
            base: PhysAddr(vendor.as_ptr() as u64),
            length: vendor.num_bytes() as u64,
        });
    }
    firmware
}

/// UNIX time by the firmware's clock.
pub fn date() -> Option<i64> {
    let time = uefi::runtime::get_time().ok()?;
    date::unix_seconds(
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.time_zone().unwrap_or(0),
    )
}
