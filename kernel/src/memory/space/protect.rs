//! Changes of what is allowed in a range of a space.
//!
//! A range may hold thousands of mappings, so it goes by pieces, and others may have the CPU in between. First all of the range is
//! looked at, then it is changed, each piece of which is looked at again under the lock under which it is changed.
//!
//! So for whoever has the space alone it is all or nothing. What may go wrong: others map and unmap in the range between two pieces.
//! Then a piece may be refused, and those before it stay changed. A range of one piece is changed in one step, whatever others do.

use abi::{Error, Protection};

use super::super::regions::access_of;
use super::{Inner, REGIONS_A_PIECE, Space};

impl Space {
    /// Changes what is allowed in a range that is wholly mapped. `pause` is called between pieces of it, without a lock. On an error
    /// nothing has changed, unless others have changed mappings of the range meanwhile: then what lies before a certain page may be changed.
    ///
    /// # Errors
    /// [`Error::BadArgument`], [`Error::OutOfRange`] and [`Error::Reserved`] as for [`unmap`](Self::unmap); [`Error::NotMapped`] if a page is not;
    /// [`Error::NoRight`] if the handle of one did not allow this; [`Error::NoMemory`], [`Error::QuotaExceeded`].
    pub fn protect(
        &self,
        address: u64,
        bytes: u64,
        protection: Protection,
        pause: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let end = self.check_change(address, bytes)?;
        let mut at = address;
        loop {
            at = self.inner.lock().look_at_piece(at, end, protection)?.end;
            if at == end {
                break;
            }
            pause();
        }
        at = address;
        loop {
            at = self.protect_piece(at, end, protection)?;
            if at == end {
                return Ok(());
            }
            pause();
        }
    }

    /// Changes the first piece of a range; gives where it ends. On an error nothing has changed.
    fn protect_piece(&self, start: u64, end: u64, protection: Protection) -> Result<u64, Error> {
        let access = access_of(protection);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let piece = inner.look_at_piece(start, end, protection)?;
        // A cut alone changes no mapping, so failing at the second leaves nothing to undo. The end of the whole range is cut
        // before any piece is changed.
        self.cut(inner, start)?;
        self.cut(inner, end)?;
        let mut at = start;
        while at < piece.end {
            let region = inner.regions.ending_after_mut(at).ok_or(Error::NotMapped)?;
            region.access = access;
            at = region.end;
        }
        if piece.restricts {
            inner.unlink(&self.tlb, start, piece.end);
            let _ = self.free_some(inner);
        }
        Ok(piece.end)
    }
}

/// The first mappings of a range that is to be changed.
struct Piece {
    /// Where they, or the range, end.
    end: u64,
    /// Less is allowed afterwards in one of them.
    restricts: bool,
}

impl Inner {
    /// Whether the first piece of a range may be changed so.
    fn look_at_piece(&self, start: u64, end: u64, protection: Protection) -> Result<Piece, Error> {
        let access = access_of(protection);
        let mut piece = Piece {
            end: start,
            restricts: false,
        };
        for _ in 0..REGIONS_A_PIECE {
            let region = self.regions.find(piece.end).ok_or(Error::NotMapped)?;
            if !region.limit.contains(protection.needs()) {
                return Err(Error::NoRight);
            }
            piece.restricts |= !access.allows(region.access);
            piece.end = region.end.min(end);
            if piece.end == end {
                break;
            }
        }
        Ok(piece)
    }
}
