//! How each event is injected.

use anyhow::{Context, Result, ensure};
use iced_x86::Register;
use serde_json::json;

use super::places::counter;
use super::{Event, Pending, Sweep};
use crate::entry_text::Place;
use crate::gdb::Registers;

/// RFLAGS.TF.
const TF: u64 = 1 << 8;

/// A bank's status that says: valid, uncorrected, enabled, with address and more, signalled, and nothing corrupt (Intel SDM vol. 3B
/// §16.3.2.2); and the global status: RIP is valid, a machine check is in progress.
pub const CONTAINED: &str = "mce 0 1 0xbd00000000000000 0x5 0x1000 0x8c";

/// Where nothing is mapped, for RIP, and for RSP.
const WILD_RIP: u64 = 0x10;
const NO_STACK: u64 = 0;

/// Offset of RSP0 in a TSS (Intel SDM vol. 3A §8.7).
const RSP0: u64 = 4;

impl Sweep<'_> {
    pub(super) fn inject(
        &mut self,
        event: Event,
        place: &Place,
        registers: &Registers,
    ) -> Result<()> {
        if let Some(events) = self.todo.get_mut(&place.address) {
            events.remove(&event);
        }
        self.report.injected[event as usize] += 1;
        // It may have been disarmed as the place of another event that came back here.
        self.arm(place.address)?;
        match event {
            Event::Nmi => {
                self.qmp.command("inject-nmi", &json!({}))?;
                if self.pending.iter().any(|p| p.event == Event::Nmi) {
                    self.report.held_back += 1;
                    return Ok(());
                }
                self.expect(event, place.text(), registers.clone(), registers, false);
                Ok(())
            }
            Event::MachineCheck => {
                self.machine_check()?;
                self.expect(event, place.text(), registers.clone(), registers, false);
                Ok(())
            }
            Event::DoubleFault => self.double_fault(place, registers),
            Event::Debug => self.debug(place, registers),
        }
    }

    fn machine_check(&mut self) -> Result<()> {
        let said = self.qmp.monitor(CONTAINED)?;
        ensure!(said.trim().is_empty(), "QEMU's mce says: {said}");
        Ok(())
    }

    fn double_fault(&mut self, place: &Place, registers: &Registers) -> Result<()> {
        let mut wild = registers.clone();
        wild.set("rip", WILD_RIP);
        wild.set("rsp", NO_STACK);
        self.gdb.set_registers(&wild)?;
        let mut want = registers.clone();
        want.set("rip", self.double_fault_handler);
        self.arm(self.double_fault_handler)?;
        self.expect(Event::DoubleFault, place.text(), want, registers, true);
        Ok(())
    }

    /// No stack for the kernel when user code faults.
    fn double_fault_of_user_code(&mut self, place: String, registers: &Registers) -> Result<()> {
        self.report.injected[Event::DoubleFault as usize] += 1;
        let said = self.qmp.monitor("info registers")?;
        let segment = said.lines().find_map(|line| line.strip_prefix("TR ="));
        let base = segment.and_then(|rest| rest.split_whitespace().nth(1));
        let base = base.and_then(|base| u64::from_str_radix(base, 16).ok());
        let field = base.context("QEMU does not tell TR")? + RSP0;
        let stack = self.gdb.word(field)?;
        self.gdb.set_word(field, NO_STACK)?;
        let mut wild = registers.clone();
        wild.set("rip", WILD_RIP);
        self.gdb.set_registers(&wild)?;
        let mut want = registers.clone();
        want.set("rip", self.double_fault_handler);
        self.arm(self.double_fault_handler)?;
        self.expect(Event::DoubleFault, place, want, registers, true);
        self.taken_stack = Some((field, stack));
        Ok(())
    }

    /// Sees first where the instruction leads by itself, then carries it out again under TF.
    fn debug(&mut self, place: &Place, registers: &Registers) -> Result<()> {
        self.disarm(place.address)?;
        // What it counts in memory it would count twice.
        let counter = counter(place, registers);
        let count = counter.map(|at| self.gdb.word(at)).transpose()?;
        self.gdb.step()?;
        if place.instruction.op0_register() == Register::SS {
            // The trap comes behind the next instruction (Intel SDM vol. 3A §6.8.3).
            self.gdb.step()?;
        }
        let behind = self.gdb.registers()?;
        if let (Some(at), Some(count)) = (counter, count) {
            self.gdb.set_word(at, count)?;
        }
        let mut stepping = registers.clone();
        stepping.set("rflags", registers.get("rflags") | TF);
        self.gdb.set_registers(&stepping)?;
        let next = behind.get("rip");
        let own = !self.armed.contains(&next);
        if own {
            self.arm(next)?;
        }
        self.expect(Event::Debug, place.text(), behind, registers, own);
        Ok(())
    }

    fn expect(
        &mut self,
        event: Event,
        place: String,
        want: Registers,
        before: &Registers,
        own_breakpoint: bool,
    ) {
        self.pending.push(Pending {
            event,
            place,
            want,
            before: before.clone(),
            own_breakpoint,
        });
    }

    /// In user code, right behind an exit: injects one of the events that are left for it.
    pub(super) fn interrupt_user_code(&mut self, exit: u64, registers: &Registers) -> Result<()> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        let Some(events) = self.exits.get_mut(&exit) else {
            return Ok(());
        };
        let event = events.pop();
        if events.is_empty() {
            self.exits.remove(&exit);
        }
        let text = format!("user code behind {}", self.places[&exit].text());
        match event {
            Some(Event::Nmi) => {
                self.qmp.command("inject-nmi", &json!({}))?;
            }
            Some(Event::MachineCheck) => self.machine_check()?,
            Some(Event::DoubleFault) => return self.double_fault_of_user_code(text, registers),
            _ => return Ok(()),
        }
        let event = event.context("an event was taken")?;
        self.report.injected[event as usize] += 1;
        let address = registers.get("rip");
        self.arm(address)?;
        self.expect(event, text, registers.clone(), registers, true);
        Ok(())
    }
}
