//! The tests that boot machines.
//!
//! A lane is a kind of test, a module here; it gives jobs, and a job is one boot (in `entries/` three, which belong together). Two boots run at a time. Each prints
//! one line when it ends; what failed is explained under it, and the whole serial log is in `build/logs/`.

mod bench;
mod bochs;
mod boot;
mod context;
mod entries;
mod foreign;
pub mod grind;
mod halt;
mod lab;
mod loader;
mod matrix;
mod nmi;
mod panic;
mod piped;
mod protocol;
mod shell;
mod silent;
mod suite;
mod torture;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::report::{Counts, Outcome};
use crate::workspace::Workspace;
pub use lab::Lab;

/// How many machines run at the same time.
const AT_ONCE: usize = 2;

type Task<T> = Box<dyn Fn(&Lab) -> Result<T> + Send + Sync>;

/// One boot.
pub struct Job {
    name: String,
    prepare: Task<()>,
    action: Task<Outcome>,
}

impl Job {
    /// A job called `LANE/...`: `prepare` builds what it needs, before any machine starts; `action` boots and judges.
    fn new(
        name: String,
        prepare: impl Fn(&Lab) -> Result<()> + Send + Sync + 'static,
        action: impl Fn(&Lab) -> Result<Outcome> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            prepare: Box::new(prepare),
            action: Box::new(action),
        }
    }
}

/// All jobs, the slowest kind first so that none is left alone at the end.
fn all() -> Vec<Job> {
    let mut jobs = entries::jobs();
    jobs.extend(bochs::jobs());
    jobs.extend(suite::jobs());
    jobs.extend(suite::x2apic_jobs());
    jobs.extend(suite::floating_point_jobs());
    jobs.extend(torture::jobs());
    jobs.extend(grind::jobs());
    jobs.extend(nmi::jobs());
    jobs.extend(halt::jobs());
    jobs.extend(shell::jobs());
    jobs.extend(silent::jobs());
    jobs.extend(piped::jobs());
    jobs.extend(panic::jobs());
    jobs.extend(context::jobs());
    jobs.extend(foreign::jobs());
    jobs.extend(boot::jobs());
    jobs.extend(loader::jobs());
    jobs.extend(bench::jobs());
    jobs
}

/// The names of all machine tests.
pub fn names() -> Vec<String> {
    all().into_iter().map(|job| job.name).collect()
}

/// Runs the jobs whose name contains `filter`, with more words for the kernel's command line in those that run test programs.
///
/// # Errors
/// If no name does, or there is no firmware. All other failures are counted, not errors.
pub fn run(ws: Workspace, filter: &str, cmdline: &str) -> Result<Counts> {
    let jobs: Vec<Job> = all()
        .into_iter()
        .filter(|j| j.name.contains(filter))
        .collect();
    if jobs.is_empty() {
        bail!("no machine test's name contains '{filter}' (just test-list)");
    }
    let lab = Lab::new(ws, cmdline)?;
    // Jobs share what they need; what can't be built fails those that need it, and the others still run.
    let prepared: Vec<Result<(), String>> = jobs
        .iter()
        .map(|job| (job.prepare)(&lab).map_err(|e| format!("{e:#}")))
        .collect();
    eprintln!("machine tests: {} boots, {AT_ONCE} at a time", jobs.len());
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Outcome::default());
    // A machine is bound to the thread that started it, so each worker plays its sessions itself.
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(job), Some(prepared)) = (jobs.get(at), prepared.get(at)) else {
                        break;
                    };
                    let started = Instant::now();
                    let outcome = prepared
                        .as_ref()
                        .map_err(Clone::clone)
                        .and_then(|()| (job.action)(&lab).map_err(|e| format!("{e:#}")))
                        .unwrap_or_else(Outcome::failed);
                    let seconds = started.elapsed().as_secs_f64();
                    let mut total = total
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.counts += outcome.counts;
                    total.held.extend(outcome.held);
                    total.left_out.extend(outcome.left_out);
                    println!("{:<32} {}  ({seconds:.1} s)", job.name, outcome.counts);
                    for detail in &outcome.details {
                        println!("  {}", detail.replace('\n', "\n  "));
                    }
                }
            });
        }
    });
    let total = total
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut counts = total.counts;
    if filter.is_empty() {
        for name in never_held(&total) {
            println!("{name}: every machine skips it");
            counts += Counts::FAILED;
        }
    }
    Ok(counts)
}

/// Tests that some machine skipped and none passed: what nobody runs shows nothing.
fn never_held(all: &Outcome) -> BTreeSet<&str> {
    let held: BTreeSet<&str> = all.held.iter().map(String::as_str).collect();
    let left_out = all.left_out.iter().map(String::as_str);
    left_out.filter(|name| !held.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use crate::report::Outcome;

    #[test]
    fn what_every_machine_skips_is_named_once() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let all = Outcome {
            held: names(&["a", "b"]),
            left_out: names(&["b", "c", "c"]),
            ..Outcome::default()
        };
        assert!(super::never_held(&all).into_iter().eq(["c"]));
    }

    #[test]
    fn names_are_unique_and_say_their_lane() {
        let mut names = super::names();
        names.sort();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
        assert!(names.iter().all(|n| n.contains('/')));
    }
}
