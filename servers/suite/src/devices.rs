//! Two PCI devices that emulators have, as far as the tests of interrupts need them.
//!
//! [`Edu`] is QEMU's device for teaching (docs/specs/edu): it raises its interrupt when a register is written, by MSI or by its line.
//! [`Card`] is Intel's 82574 network card, which has MSI-X: its "interrupt cause set" register raises what it would raise for a packet
//! (82574 datasheet §10.2.4).

use abi::Protection;
use abi::irq::Message;
use core::sync::atomic::{AtomicU32, Ordering};
use pci_types::capability::{MsiCapability, PciCapability};
use pci_types::{Bar, CommandRegister, ConfigRegionAccess, EndpointHeader, PciAddress, PciHeader};
use rt::{Error, IoPorts, Mapping, System};

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
const PAGE: u64 = 4096;

/// PCI's configuration space by its two ports (PCI Local Bus 3.0 §3.2.2.3.2). One thread at a time uses it.
struct Config {
    _ports: IoPorts,
}

impl Config {
    fn new(system: &System) -> rt::Result<Config> {
        let ports = IoPorts::create(system, CONFIG_ADDRESS, 8)?;
        ports.enable()?;
        Ok(Config { _ports: ports })
    }

    /// Says which register is meant.
    fn select(address: PciAddress, offset: u16) {
        let word = 1 << 31
            | u32::from(address.bus()) << 16
            | u32::from(address.device()) << 11
            | u32::from(address.function()) << 8
            | u32::from(offset & 0xFC);
        // SAFETY: the ports are enabled; which register is selected changes no device.
        unsafe {
            core::arch::asm!("out dx, eax", in("dx") CONFIG_ADDRESS, in("eax") word, options(nomem, nostack, preserves_flags));
        }
    }
}

impl ConfigRegionAccess for Config {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        Config::select(address, offset);
        let value: u32;
        // SAFETY: the ports are enabled; the caller vouches for the register.
        unsafe {
            core::arch::asm!("in eax, dx", in("dx") CONFIG_DATA, out("eax") value, options(nomem, nostack, preserves_flags));
        }
        value
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        Config::select(address, offset);
        // SAFETY: as above.
        unsafe {
            core::arch::asm!("out dx, eax", in("dx") CONFIG_DATA, in("eax") value, options(nomem, nostack, preserves_flags));
        }
    }
}

/// Registers of a device in memory.
struct Registers(Mapping);

impl Registers {
    /// The first `bytes` bytes of what a base address register names.
    fn of(
        system: &System,
        header: &EndpointHeader,
        config: &Config,
        slot: u8,
        bytes: u64,
    ) -> rt::Result<(Registers, u64)> {
        let address = match header.bar(slot, config) {
            Some(Bar::Memory32 { address, .. }) => u64::from(address),
            Some(Bar::Memory64 { address, .. }) => address,
            Some(Bar::Io { .. }) | None => return Err(Error::NotSupported),
        };
        let memory = system.physical_memory(address, bytes, false)?;
        Ok((Registers(memory.map(Protection::READ_WRITE)?), address))
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.0.bytes() && offset.is_multiple_of(4));
        // SAFETY: mapped as long as this lives, aligned and inside; a register is read and written as a whole.
        unsafe { &*self.0.as_ptr().add(offset).cast::<AtomicU32>() }
    }

    fn read(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    fn write(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }
}

/// Looks for a device on the first bus, and lets it use memory and send messages, but not its line. `None`: there is none.
fn find(config: &Config, vendor: u16, device: u16) -> Option<EndpointHeader> {
    let mut header = (0..32).find_map(|slot| {
        let header = PciHeader::new(PciAddress::new(0, 0, slot, 0));
        (header.id(config) == (vendor, device))
            .then(|| EndpointHeader::from_header(header, config))
            .flatten()
    })?;
    header.update_command(config, |command| {
        command
            | CommandRegister::MEMORY_ENABLE
            | CommandRegister::BUS_MASTER_ENABLE
            | CommandRegister::INTERRUPT_DISABLE
    });
    Some(header)
}

/// QEMU's device for teaching.
pub struct Edu {
    config: Config,
    header: EndpointHeader,
    msi: MsiCapability,
    registers: Registers,
}

impl Edu {
    const RAISE: usize = 0x60;
    const STATUS: usize = 0x24;
    const ACKNOWLEDGE: usize = 0x64;

    /// The device, quiet and without MSI; `None` on a machine that has none.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(system: &System) -> rt::Result<Option<Edu>> {
        let config = Config::new(system)?;
        let Some(header) = find(&config, 0x1234, 0x11E8) else {
            return Ok(None);
        };
        let msi = header
            .capabilities(&config)
            .find_map(|capability| match capability {
                PciCapability::Msi(msi) => Some(msi),
                _ => None,
            });
        let msi = msi.ok_or(Error::NotSupported)?;
        let (registers, _) = Registers::of(system, &header, &config, 0, PAGE)?;
        let edu = Edu {
            config,
            header,
            msi,
            registers,
        };
        edu.quieten();
        edu.msi.set_enabled(false, &edu.config);
        Ok(Some(edu))
    }

    /// Has it send this message from now on.
    pub fn send(&self, message: Message) {
        self.msi
            .set_message_info(message.address, message.data as u32, &self.config);
        self.msi.set_enabled(true, &self.config);
    }

    /// Has it send what it was programmed with before it was opened.
    pub fn send_as_before(&self) {
        self.msi.set_enabled(true, &self.config);
    }

    /// Has it use its line, or not.
    pub fn use_line(&mut self, on: bool) {
        self.msi.set_enabled(false, &self.config);
        self.header.update_command(&self.config, |mut command| {
            command.set(CommandRegister::INTERRUPT_DISABLE, !on);
            command
        });
    }

    /// Raises its interrupt. By MSI each time, by its line until [`quieten`](Self::quieten).
    pub fn raise(&self) {
        self.registers.write(Self::RAISE, 1);
    }

    /// Serves it: it wants nothing any more.
    pub fn quieten(&self) {
        let status = self.registers.read(Self::STATUS);
        self.registers.write(Self::ACKNOWLEDGE, status);
    }
}

/// The network card.
pub struct Card {
    registers: Registers,
    table: Registers,
    /// Physical address of the first vector's mask.
    pub mask: u64,
}

impl Card {
    const CONTROL: usize = 0x00;
    const RESET: u32 = 1 << 26;
    const EXTENDED_CONTROL: usize = 0x18;
    const KEEP_MASK: u32 = 1 << 27;
    const CAUSE_SET: usize = 0xC8;
    const MASK_SET: usize = 0xD0;
    const MASK_CLEAR: usize = 0xD8;
    const AUTO_CLEAR: usize = 0xDC;
    const VECTORS: usize = 0xE4;
    /// The first receive queue's cause, which has the first vector here.
    const QUEUE: u32 = 1 << 20;
    const VALID: u32 = 1 << 3;

    /// The card with MSI-X on and nothing programmed; `None` on a machine that has none.
    ///
    /// # Errors
    /// Those of the calls that it takes.
    pub fn open(system: &System) -> rt::Result<Option<Card>> {
        let config = Config::new(system)?;
        let Some(header) = find(&config, 0x8086, 0x10D3) else {
            return Ok(None);
        };
        let msix = header
            .capabilities(&config)
            .find_map(|capability| match capability {
                PciCapability::MsiX(msix) => Some(msix),
                _ => None,
            });
        let mut msix = msix.ok_or(Error::NotSupported)?;
        let (registers, _) = Registers::of(system, &header, &config, 0, PAGE)?;
        registers.write(Self::CONTROL, registers.read(Self::CONTROL) | Self::RESET);
        if msix.table_offset() != 0 {
            return Err(Error::NotSupported);
        }
        let (table, address) = Registers::of(system, &header, &config, msix.table_bar(), PAGE)?;
        registers.write(Self::MASK_CLEAR, u32::MAX);
        registers.write(Self::VECTORS, Self::VALID);
        registers.write(Self::AUTO_CLEAR, Self::QUEUE);
        // A cause that was sent is cleared, its mask is not.
        registers.write(
            Self::EXTENDED_CONTROL,
            registers.read(Self::EXTENDED_CONTROL) | Self::KEEP_MASK,
        );
        registers.write(Self::MASK_SET, Self::QUEUE);
        msix.set_function_mask(false, &config);
        msix.set_enabled(true, &config);
        Ok(Some(Card {
            registers,
            table,
            mask: address + 12,
        }))
    }

    /// Has its first vector send this message from now on.
    pub fn send(&self, message: Message) {
        self.table.write(0, message.address as u32);
        self.table.write(4, (message.address >> 32) as u32);
        self.table.write(8, message.data as u32);
    }

    /// Raises the interrupt of its first vector.
    pub fn raise(&self) {
        self.registers.write(Self::CAUSE_SET, Self::QUEUE);
    }

    /// Whether its first vector is masked.
    pub fn is_masked(&self) -> bool {
        self.table.read(12) & 1 != 0
    }
}

impl Drop for Card {
    /// Nothing is raised any more. MSI-X stays on, as the card's timers may still run, and QEMU ends itself if one of them finds it off.
    fn drop(&mut self) {
        self.registers.write(Self::MASK_CLEAR, u32::MAX);
    }
}
