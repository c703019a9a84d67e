//! A call to another CPU: how many instructions each of the two executes for one round trip.
//!
//! Under `-icount` the CPUs share one counter, so a program sees the sum alone. QEMU's log of executed blocks says which CPU executed
//! each: those between the program's `bench_trace_begin` and `bench_trace_end` are counted. What a CPU does when it wakes and before it halts is
//! in it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::log::{self, Line, Listing};
use super::steps;
use crate::machine::Spec;

/// Instructions by CPU.
pub(super) type Sides = BTreeMap<u32, u64>;

/// Follows the one operation of a machine.
///
/// # Errors
/// If the machine fails, or the operation has no end.
pub(super) fn follow(spec: &Spec, program: &Path) -> Result<Sides> {
    let count = Count {
        begin: steps::address(program, "bench_trace_begin")?,
        end: steps::address(program, "bench_trace_end")?,
        ..Count::default()
    };
    let count = log::follow(spec, program, count, Count::line)?;
    ensure!(count.is_over, "the operation has no end");
    Ok(count.sides)
}

#[derive(Debug, Default)]
struct Count {
    begin: u64,
    end: u64,
    listing: Listing,
    sides: Sides,
    last: Option<(u32, u32)>,
    is_on: bool,
    is_over: bool,
}

impl Count {
    fn line(&mut self, line: &str) -> Result<()> {
        match self.listing.read(line)? {
            Line::Executed { cpu, pc, block, .. } => {
                if pc == self.begin {
                    self.is_on = true;
                } else if pc == self.end {
                    self.is_over |= self.is_on;
                    self.is_on = false;
                } else if self.is_on {
                    let block =
                        block.with_context(|| format!("the block at {pc:#x} was not listed"))?;
                    *self.sides.entry(cpu).or_default() += u64::from(block.instructions);
                    self.last = Some((cpu, block.instructions));
                }
            }
            Line::TakenBack => {
                if let Some((cpu, instructions)) = self.last.take() {
                    *self.sides.entry(cpu).or_default() -= u64::from(instructions);
                }
            }
            Line::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_has_its_own_between_begin_and_end() {
        let mut count = Count {
            begin: 0x10,
            end: 0x20,
            ..Count::default()
        };
        let mut run = |cpu: u32, pc: u64, instructions: usize| {
            count.line("IN: ").unwrap();
            for at in 0..instructions as u64 {
                count
                    .line(&format!("0x{:x}:  90      nop", pc + at))
                    .unwrap();
            }
            count
                .line(&format!("Trace {cpu}: 0x{pc:x} [0/{pc:x}/b3/0] "))
                .unwrap();
        };
        run(0, 0x100, 5);
        run(0, 0x10, 2);
        run(0, 0x200, 7);
        run(1, 0x300, 3);
        run(1, 0x400, 4);
        run(0, 0x500, 1);
        run(0, 0x20, 2);
        run(0, 0x600, 9);
        assert_eq!(count.sides, Sides::from([(0, 8), (1, 7)]));
        assert!(count.is_over);
    }
}
