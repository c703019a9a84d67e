//! Whether all is as it was when an event has come back.

use anyhow::{Result, ensure};

use super::{Event, Pending, Sweep};
use crate::gdb::Registers;

/// RFLAGS.RF, which is the CPU's own affair when an exception returns.
const RF: u64 = 1 << 16;

/// Offset of the vector and of RIP in the frame that handlers get (`abi::UserContext`).
const VECTOR: u64 = 168;
const DOUBLE_FAULT: u64 = 8;

impl Sweep<'_> {
    /// If this is where the last event comes back, sees whether all is as it was, and returns the registers to go on with.
    pub(super) fn come_back(&mut self, registers: &Registers) -> Result<Option<Registers>> {
        let Some(last) = self.pending.last() else {
            return Ok(None);
        };
        let same_place = registers.get("rip") == last.want.get("rip");
        if last.event == Event::DoubleFault {
            if !same_place {
                return Ok(None);
            }
            let problems = self.double_fault_problems(registers)?;
            let Some(last) = self.pop()? else {
                return Ok(None);
            };
            for problem in problems {
                self.problem(&last, &problem);
            }
            self.disarm(self.double_fault_handler)?;
            if let Some((field, stack)) = self.taken_stack.take() {
                self.gdb.set_word(field, stack)?;
            }
            self.gdb.set_registers(&last.before)?;
            let now = self.gdb.registers()?;
            ensure!(
                now == last.before,
                "the debugger did not put all registers back: {:?}",
                last.before.differences(&now, &[])
            );
            return Ok(Some(now));
        }
        if !same_place || registers.get("rsp") != last.want.get("rsp") {
            return Ok(None);
        }
        let Some(last) = self.pop()? else {
            return Ok(None);
        };
        let mut apart = vec!["rflags", "cr2"];
        if last.want.get("cs") & 3 == 3 {
            // An interrupt that waited may have had another thread run: the FPU's registers are not there then.
            apart.push("cr0");
        }
        let mut differences = last.want.differences(registers, &apart);
        let flags = registers.get("rflags") & !RF;
        if flags != last.want.get("rflags") & !RF {
            differences.push(format!(
                "rflags {:#x} became {flags:#x}",
                last.want.get("rflags")
            ));
        }
        if !differences.is_empty() {
            self.problem(&last, &differences.join(", "));
        }
        if last.own_breakpoint {
            self.disarm(registers.get("rip"))?;
        }
        // Behind a #DB the instruction that it was injected at has no breakpoint any more.
        let origin = last.before.get("rip");
        if self.todo.get(&origin).is_some_and(|t| !t.is_empty()) {
            self.arm(origin)?;
        }
        Ok(Some(registers.clone()))
    }

    fn problem(&mut self, event: &Pending, what: &str) {
        self.report
            .problems
            .push(format!("{:?} at {}: {what}", event.event, event.place));
    }

    /// What is wrong when a double fault has reached its handler.
    fn double_fault_problems(&mut self, registers: &Registers) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let base = registers.get("gs_base");
        match self.gdb.word(base) {
            Ok(itself) if itself == base => {}
            _ => problems.push(format!(
                "the handler's GS base is {base:#x}, not the kernel's"
            )),
        }
        let vector = self.gdb.word(registers.get("rdi") + VECTOR)?;
        if vector != DOUBLE_FAULT {
            problems.push(format!("the handler's frame says vector {vector}"));
        }
        Ok(problems)
    }
}
