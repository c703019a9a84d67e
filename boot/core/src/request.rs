//! Finding what the kernel asks for.
//!
//! A kernel states its requests as constants somewhere in its image, each with a magic number at an address that is
//! a multiple of 8 (Limine PROTOCOL, Features). The image is searched after relocation, since a request can hold
//! addresses. Two requests with one ID are refused, as the protocol demands; requests nobody here has heard of
//! are left as they are, which is the protocol's way of saying "not served".

use crate::addr::{VirtAddr, word_at};
use crate::elf::Plan;
use crate::error::Fault;
use crate::protocol::{
    BASE_REVISION_MAGIC, BaseRevision, COMMON_MAGIC, END_MARKER, FEATURES, Feature, MAX_STACK,
    MIN_STACK, PAGING_4LEVEL, RESPONSE_OFFSET, START_MARKER,
};
use alloc::vec::Vec;

/// What an image asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    /// The base revision the kernel is given.
    pub base: BaseRevision,
    /// The revision in its tag, if it has one.
    pub requested: Option<u64>,
    tag: Option<usize>,
    found: Vec<(Feature, usize)>,
}

/// Bytes of a request before the fields of its own: ID, revision, response.
const HEADER: usize = 48;

impl Requests {
    /// Searches the relocated `image` that `plan` laid out.
    ///
    /// # Errors
    /// [`Fault::DuplicateRequest`], [`Fault::BadDelimiters`], [`Fault::RequestTruncated`].
    pub fn scan(plan: &Plan, image: &[u8]) -> Result<Self, Fault> {
        let (low, high) = delimited(image)?;
        let area = &image[low..high];

        let mut tag = None;
        for at in find(area, &BASE_REVISION_MAGIC) {
            if tag.replace(low + at).is_some() {
                return Err(Fault::DuplicateRequest("base revision"));
            }
        }
        let requested = match tag {
            Some(at) => {
                Some(word_at(image, at + 16).ok_or(Fault::RequestTruncated("base revision"))?)
            }
            None => None,
        };
        let base = BaseRevision::for_request(requested.unwrap_or(0));

        let mut this = Self {
            base,
            requested,
            tag,
            found: Vec::new(),
        };
        match plan.request_section {
            Some(section) if base.number() == 0 => this.take_listed(plan, image, section)?,
            _ => {
                for at in find(area, &COMMON_MAGIC) {
                    this.take(image, low + at)?;
                }
            }
        }
        Ok(this)
    }

    /// Base revision 0 only: requests listed by address in section `.limine_reqs`, up to a null.
    fn take_listed(
        &mut self,
        plan: &Plan,
        image: &[u8],
        (start, bytes): (u64, u64),
    ) -> Result<(), Fault> {
        for n in 0..(bytes / 8) as usize {
            match word_at(image, start as usize + n * 8) {
                None | Some(0) => break,
                Some(at) => {
                    let at = plan
                        .offset_of(VirtAddr(at), HEADER as u64)
                        .ok_or(Fault::RequestTruncated(".limine_reqs"))?;
                    self.take(image, at as usize)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, image: &[u8], at: usize) -> Result<(), Fault> {
        let id = [word_at(image, at + 16), word_at(image, at + 24)];
        let Some((feature, name, _, size)) =
            FEATURES.iter().find(|(_, _, tail, _)| id == tail.map(Some))
        else {
            return Ok(());
        };
        if at + size > image.len() {
            return Err(Fault::RequestTruncated(name));
        }
        if self.found.iter().any(|(f, _)| f == feature) {
            return Err(Fault::DuplicateRequest(name));
        }
        self.found.push((*feature, at));
        Ok(())
    }

    /// How many requests were found.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether `feature` is requested.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.offset(feature).is_some()
    }

    fn offset(&self, feature: Feature) -> Option<usize> {
        self.found
            .iter()
            .find(|(f, _)| *f == feature)
            .map(|(_, at)| *at)
    }

    /// Word `index` of the fields that `feature`'s request has after its response pointer.
    fn field(&self, image: &[u8], feature: Feature, index: usize) -> Option<u64> {
        word_at(image, self.offset(feature)? + HEADER + index * 8)
    }

    /// Fills in a request's response pointer, if it was made.
    pub fn respond(&self, image: &mut [u8], feature: Feature, response: VirtAddr) {
        if let Some(at) = self.offset(feature) {
            let place = at + RESPONSE_OFFSET;
            image[place..place + 8].copy_from_slice(&response.0.to_le_bytes());
        }
    }

    /// Says in the tag which base revision the kernel was given: the second word holds it, and the third is 0 if it
    /// is the one asked for, untouched if not (Limine PROTOCOL, Base Revisions).
    pub fn answer_tag(&self, image: &mut [u8]) {
        let Some(at) = self.tag else { return };
        image[at + 8..at + 16].copy_from_slice(&self.base.number().to_le_bytes());
        if self.requested == Some(self.base.number()) {
            image[at + 16..at + 24].fill(0);
        }
    }

    /// The size of the stack the kernel gets, in bytes, at least 64 KiB and a multiple of 16.
    ///
    /// # Errors
    /// [`Fault::StackTooLarge`] for a request beyond reason.
    pub fn stack_size(&self, image: &[u8]) -> Result<u64, Fault> {
        let bytes = self
            .field(image, Feature::StackSize, 0)
            .unwrap_or(0)
            .max(MIN_STACK);
        if bytes > MAX_STACK {
            Err(Fault::StackTooLarge { bytes })
        } else {
            Ok(bytes.next_multiple_of(16))
        }
    }

    /// The entry point: the one asked for, else the ELF file's.
    ///
    /// # Errors
    /// [`Fault::BadEntryPoint`] if it cannot be executed.
    pub fn entry_point(&self, plan: &Plan, image: &[u8]) -> Result<VirtAddr, Fault> {
        let at = self
            .field(image, Feature::EntryPoint, 0)
            .map_or(plan.entry, VirtAddr);
        plan.check_entry(at)?;
        Ok(at)
    }

    /// Whether 4-level paging will do: it does unless the request's revision 1 sets a higher minimum.
    ///
    /// # Errors
    /// [`Fault::PagingMode`] if not.
    pub fn check_paging_mode(&self, image: &[u8]) -> Result<(), Fault> {
        let Some(at) = self.offset(Feature::PagingMode) else {
            return Ok(());
        };
        let revision = word_at(image, at + 32).unwrap_or(0);
        // Fields: mode, then from request revision 1 on max_mode and min_mode.
        let min = if revision >= 1 {
            self.field(image, Feature::PagingMode, 2)
        } else {
            None
        };
        if min.unwrap_or(PAGING_4LEVEL) > PAGING_4LEVEL {
            Err(Fault::PagingMode)
        } else {
            Ok(())
        }
    }
}

/// Offsets, multiples of 8, at which `image` holds the words of `magic`.
fn find<'a>(image: &'a [u8], magic: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
    (0..image.len() / 8).map(|n| n * 8).filter(move |at| {
        magic
            .iter()
            .enumerate()
            .all(|(n, m)| word_at(image, at + n * 8) == Some(*m))
    })
}

/// The part of the image in which requests count: after the last start marker, before the first end marker.
fn delimited(image: &[u8]) -> Result<(usize, usize), Fault> {
    let high = find(image, &END_MARKER).next().unwrap_or(image.len());
    let low = find(image, &START_MARKER)
        .last()
        .map_or(0, |at| at + START_MARKER.len() * 8);
    if low <= high {
        Ok((low, high))
    } else {
        Err(Fault::BadDelimiters)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
