//! Where reports go: an endpoint and the badge that they carry there.
//!
//! A thread or a process refers to it by one word, which anybody may exchange at any time while the thread faults on another CPU. So both
//! parts are an object of their own, which the thread borrows for the rest of its kernel entry, as it borrows what its handles name; the former one is
//! retired, and taken away when no CPU can have it in its hands any more.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use abi::report::ReportKind;
use abi::{Badge, Error};

use super::endpoint::Endpoint;
use crate::object::{Object, Ref, Section, Slab};

/// An endpoint that reports go to.
pub struct Listener {
    pub(crate) endpoint: Ref<Endpoint>,
    pub(crate) badge: Badge,
}

static SLAB: Slab<Listener> = Slab::new();

impl Object for Listener {
    fn slab() -> &'static Slab<Self> {
        &SLAB
    }
}

impl Listener {
    /// One that nobody refers to yet.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn create(endpoint: Ref<Endpoint>, badge: Badge) -> Result<Ref<Listener>, Error> {
        Ref::try_new(Listener { endpoint, badge })
    }
}

/// A place for a listener of each kind of report. Each has one counted reference.
pub(crate) struct Listeners([AtomicPtr<Listener>; ReportKind::ALL.len()]);

impl Listeners {
    /// No listener.
    pub(crate) const fn none() -> Listeners {
        Listeners([const { AtomicPtr::new(ptr::null_mut()) }; ReportKind::ALL.len()])
    }

    /// Who listens to this kind.
    #[inline(always)]
    pub(crate) fn get<'s>(&self, kind: ReportKind, _section: &'s Section) -> Option<&'s Listener> {
        // SAFETY: what the place holds is counted, and what it held is retired, so that it lives as long as this section.
        unsafe { self.0[kind as usize].load(Ordering::Acquire).as_ref() }
    }

    /// Lets another listen to this kind, or nobody.
    pub(crate) fn set(&self, kind: ReportKind, listener: Option<Ref<Listener>>) {
        drop(self.exchange(kind, listener));
    }

    /// The same. Returns who listened before.
    pub(crate) fn exchange(
        &self,
        kind: ReportKind,
        listener: Option<Ref<Listener>>,
    ) -> Option<Ref<Listener>> {
        let new = listener.map_or(ptr::null(), Ref::into_raw).cast_mut();
        let old = self.0[kind as usize].swap(new, Ordering::AcqRel);
        // SAFETY: it came from `into_raw`, and the exchange has given it to us alone.
        (!old.is_null()).then(|| unsafe { Ref::from_raw(old) })
    }

    /// Nobody listens any more.
    pub(crate) fn clear(&self) {
        for kind in ReportKind::ALL {
            self.set(kind, None);
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.clear();
    }
}
