//! The manifest (`servers/init/src/manifest.rs`): what is accepted can be started, and who is given what is unambiguous.

use std::collections::HashSet;

use init::instance::{expand, is_offered};
use init::manifest::{Grants, INIT_ENDPOINT, Manifest, NAME_BYTES, Service};

use crate::is_one_line;

/// Indices of the CPUs of the machine that services are spread over; not the first so many numbers.
const CPUS: [u32; 3] = [0, 1, 5];

/// Reads a manifest, and works out what it comes to on a machine.
///
/// # Panics
/// If a service was accepted that could not be wired up as it says.
pub fn check(file: &[u8]) {
    let manifest = match Manifest::parse(file) {
        Ok(manifest) => manifest,
        Err(error) => return is_one_line(&error),
    };
    let mut names = HashSet::new();
    let mut endpoints = HashSet::new();
    for service in &manifest.services {
        assert!(names.insert(&service.name), "{} twice", service.name);
        is_sound(service);
        for endpoint in &service.offers {
            assert!(endpoints.insert(endpoint), "{endpoint} is offered twice");
            assert_ne!(endpoint, INIT_ENDPOINT);
        }
    }
    if let Some(run) = &manifest.run {
        grants_are_sound(run);
    }
    let (instances, problems) = expand(&manifest, &CPUS);
    for instance in &instances {
        assert!(manifest.services.get(instance.service).is_some());
        assert!(instance.cpu.is_none_or(|cpu| CPUS.contains(&cpu)));
        for offer in &instance.offers {
            assert!(is_offered(&instances, &offer.endpoint));
        }
    }
    let mut shown = HashSet::new();
    for instance in &instances {
        assert!(shown.insert(&instance.name), "{} twice", instance.name);
    }
    for problem in manifest.problems.iter().chain(&problems) {
        is_one_line(problem);
    }
}

fn is_sound(service: &Service) {
    for name in [&service.name, &service.binary]
        .into_iter()
        .chain(&service.offers)
    {
        assert!((1..=NAME_BYTES).contains(&name.len()), "'{name}'");
    }
    assert!(
        service
            .public
            .iter()
            .all(|one| service.offers.contains(one))
    );
    assert!(service.arguments.len() <= 4096);
    assert!(!service.backoff.is_zero());
    grants_are_sound(&service.grants);
}

fn grants_are_sound(grants: &Grants) {
    assert!(grants.priority <= grants.highest);
    assert!((4 << 10..=64 << 20).contains(&grants.stack_bytes));
    assert!(grants.irqs.iter().all(|&line| line < 16));
    for range in &grants.ports {
        assert!(range.count > 0 && u32::from(range.first) + range.count <= 0x1_0000);
    }
    if let Some(quota) = grants.quota {
        assert!(quota.pages > 0 && quota.handles > 0 && quota.threads > 0);
    }
}
