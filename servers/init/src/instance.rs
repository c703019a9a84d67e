//! What a manifest comes to on this machine: one instance of each service, or one on each CPU.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::manifest::{INIT_ENDPOINT, Manifest, ManifestError, Placement, Service};

/// An endpoint that an instance serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// What the server calls it: its entry in the start block.
    pub entry: String,
    /// What all others call it.
    pub endpoint: String,
    /// Whether anybody may look it up.
    pub public: bool,
}

/// A service on a CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// `NAME`, or `NAME.CPU` with `cpu = "each"`.
    pub name: String,
    /// The service's place in the manifest.
    pub service: usize,
    /// The CPU that it is kept on.
    pub cpu: Option<u32>,
    /// What it serves.
    pub offers: Vec<Offer>,
}

/// The instances of a manifest on a machine with these CPU indices, and what can't be on it: a CPU that is not there, an
/// endpoint that nobody offers. An instance that lacks only an endpoint is started all the same, without it.
pub fn expand(manifest: &Manifest, cpus: &[u32]) -> (Vec<Instance>, Vec<ManifestError>) {
    let mut instances = Vec::new();
    let mut problems = Vec::new();
    for (index, service) in manifest.services.iter().enumerate() {
        match service.placement {
            Placement::Anywhere => instances.push(instance(service, index, None, None)),
            Placement::Cpu(cpu) if cpus.contains(&cpu) => {
                instances.push(instance(service, index, Some(cpu), None));
            }
            Placement::Cpu(cpu) => {
                problems.push(trouble(
                    service,
                    "cpu",
                    format!("this machine has no CPU {cpu}"),
                ));
            }
            Placement::Each => {
                instances.extend(
                    cpus.iter()
                        .map(|cpu| instance(service, index, Some(*cpu), Some(*cpu))),
                );
            }
        }
    }
    for service in &manifest.services {
        for used in &service.grants.uses {
            if !is_offered(&instances, used) {
                problems.push(trouble(service, "uses", format!("nobody offers '{used}'")));
            }
        }
    }
    (instances, problems)
}

/// Whether anybody serves an endpoint of this name.
pub fn is_offered(instances: &[Instance], endpoint: &str) -> bool {
    endpoint == INIT_ENDPOINT
        || instances
            .iter()
            .flat_map(|instance| &instance.offers)
            .any(|offer| offer.endpoint == endpoint)
}

fn instance(service: &Service, index: usize, cpu: Option<u32>, suffix: Option<u32>) -> Instance {
    let named =
        |name: &str| suffix.map_or_else(|| name.to_owned(), |suffix| format!("{name}.{suffix}"));
    let offers = service.offers.iter().map(|entry| Offer {
        entry: entry.clone(),
        endpoint: named(entry),
        public: service.public.contains(entry),
    });
    Instance {
        name: named(&service.name),
        service: index,
        cpu,
        offers: offers.collect(),
    }
}

fn trouble(service: &Service, field: &str, problem: String) -> ManifestError {
    ManifestError::Service {
        service: service.name.clone(),
        field: field.to_owned(),
        problem,
    }
}
