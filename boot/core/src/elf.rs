//! How an ELF file comes to lie in memory.
//!
//! Planning is apart from loading: a [`Plan`] is made from the file's bytes alone and holds everything that was
//! checked, so that what carries it out has nothing left to doubt. A kernel is one physically contiguous block, at
//! one offset from its virtual addresses (Limine PROTOCOL, Memory Layout at Entry), so the plan is: how many bytes,
//! at which virtual address, which pieces of the file go where, and which pages may be written or executed.

use crate::addr::{PAGE_SIZE, VirtAddr, page_down, page_up};
use crate::error::Fault;
use crate::protocol::KERNEL_BASE;
use alloc::vec::Vec;
use elf::ElfBytes;
use elf::abi::{EI_NIDENT, ELFMAGIC, EM_X86_64, ET_DYN, ET_EXEC, PF_W, PF_X, PT_DYNAMIC, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::{ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::parse::{ParseAt, ParseError};
use elf::segment::{ProgramHeader, SegmentTable};

/// One loadable segment, placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes in the file: where they start and how many there are.
    pub file_offset: u64,
    /// Bytes taken from the file.
    pub file_size: u64,
    /// Where it starts, in bytes from the start of the image.
    pub image_offset: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub memory_size: u64,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

/// A run of pages with one set of permissions, relative to the image's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First byte, a multiple of the page size.
    pub offset: u64,
    /// Length in bytes, a multiple of the page size.
    pub length: u64,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

/// Where everything of an ELF file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Virtual address of the image's first page.
    pub virtual_base: VirtAddr,
    /// What is added to every address in the file (0 for a static file).
    pub slide: u64,
    /// The image's size in bytes, whole pages.
    pub size: u64,
    /// The file's entry point, slid.
    pub entry: VirtAddr,
    /// The segments, by address.
    pub segments: Vec<Segment>,
    /// Offset and size of the dynamic section in the image, if there is one.
    pub dynamic: Option<(u64, u64)>,
    /// Section `.limine_reqs` in the image, if there is one (base revision 0 only).
    pub request_section: Option<(u64, u64)>,
}

/// Room for a kernel: from the lowest address it may have, less one page at the very end so that no end wraps to 0.
const ROOM: u64 = (KERNEL_BASE.wrapping_neg()) - PAGE_SIZE;

impl Plan {
    /// Plans the loading of `file`.
    ///
    /// # Errors
    /// A [`Fault`] that names the first thing wrong with it.
    pub fn new(file: &[u8]) -> Result<Self, Fault> {
        let header = header(file)?;
        if !matches!(header.class, elf::file::Class::ELF64) {
            return Err(Fault::WrongMachine {
                what: "it is not a 64-bit one",
                found: 32,
            });
        }
        if header.e_machine != EM_X86_64 {
            return Err(Fault::WrongMachine {
                what: "it is not for x86-64",
                found: header.e_machine.into(),
            });
        }
        if header.e_type != ET_EXEC && header.e_type != ET_DYN {
            return Err(Fault::WrongMachine {
                what: "it is not a program",
                found: header.e_type.into(),
            });
        }
        let headers = program_headers(&header, file)?;

        let mut loads = Vec::new();
        let mut dynamic = None;
        for (index, h) in headers.iter().enumerate() {
            match h.p_type {
                PT_LOAD if h.p_memsz > 0 => {
                    check_segment(index, &h, file.len() as u64)?;
                    loads.push((index, h));
                }
                PT_LOAD if h.p_filesz > 0 => return Err(Fault::SegmentShrinks { index }),
                // Linkers leave an empty one in static files when their script names it.
                PT_DYNAMIC if h.p_memsz > 0 => dynamic = Some((h.p_vaddr, h.p_memsz)),
                _ => {}
            }
        }
        loads.sort_by_key(|(_, h)| h.p_vaddr);
        for pair in loads.windows(2) {
            let ((first, a), (second, b)) = (&pair[0], &pair[1]);
            if a.p_vaddr + a.p_memsz > b.p_vaddr {
                return Err(Fault::SegmentsOverlap {
                    first: *first,
                    second: *second,
                });
            }
        }
        let (Some((lowest, low)), Some((_, high))) = (loads.first(), loads.last()) else {
            return Err(Fault::NoSegments);
        };

        let start = page_down(low.p_vaddr);
        // No segment ends past 2^64 - PAGE_SIZE, `check_segment` saw to that.
        let end =
            page_up(high.p_vaddr + high.p_memsz).ok_or(Fault::SegmentWraps { index: *lowest })?;
        let size = end - start;
        if size > ROOM {
            return Err(Fault::ImageTooLarge { bytes: size });
        }
        let slide = slide_for(start, end, header.e_type == ET_DYN, *lowest, &loads)?;

        let segments: Vec<_> = loads
            .iter()
            .map(|(_, h)| Segment {
                file_offset: h.p_offset,
                file_size: h.p_filesz,
                image_offset: h.p_vaddr - start,
                memory_size: h.p_memsz,
                writable: h.p_flags & PF_W != 0,
                executable: h.p_flags & PF_X != 0,
            })
            .collect();

        let inside = |vaddr: u64, bytes: u64| {
            let offset = vaddr.checked_sub(start)?;
            (offset.checked_add(bytes)? <= size).then_some((offset, bytes))
        };
        let dynamic = match dynamic {
            Some((vaddr, bytes)) => Some(inside(vaddr, bytes).ok_or(Fault::BadRelocationTable)?),
            None => None,
        };
        // A file whose section table is damaged or absent still loads: segments are all that counts.
        let request_section = ElfBytes::<LittleEndian>::minimal_parse(file)
            .and_then(|elf| elf.section_header_by_name(".limine_reqs"))
            .ok()
            .flatten()
            .and_then(|section| inside(section.sh_addr, section.sh_size));

        Ok(Self {
            virtual_base: VirtAddr(start.wrapping_add(slide)),
            slide,
            size,
            entry: VirtAddr(header.e_entry.wrapping_add(slide)),
            segments,
            dynamic,
            request_section,
        })
    }

    /// Puts the file's bytes in their places. `image` is the block the kernel will lie in.
    ///
    /// # Errors
    /// [`Fault::ImageTooLarge`] if `image` is smaller than [`Plan::size`], or a truncation if `file` is not the
    /// file that was planned for.
    pub fn load(&self, file: &[u8], image: &mut [u8]) -> Result<(), Fault> {
        if (image.len() as u64) < self.size {
            return Err(Fault::ImageTooLarge { bytes: self.size });
        }
        image.fill(0);
        for (index, s) in self.segments.iter().enumerate() {
            let end = s.file_offset + s.file_size;
            let from =
                file.get(s.file_offset as usize..end as usize)
                    .ok_or(Fault::SegmentTruncated {
                        index,
                        end,
                        size: file.len() as u64,
                    })?;
            image[s.image_offset as usize..][..from.len()].copy_from_slice(from);
        }
        Ok(())
    }

    /// The image's offset of virtual address `at`, if `bytes` bytes from there lie within it.
    #[must_use]
    pub fn offset_of(&self, at: VirtAddr, bytes: u64) -> Option<u64> {
        let offset = at.0.checked_sub(self.virtual_base.0)?;
        (offset.checked_add(bytes)? <= self.size).then_some(offset)
    }

    /// Whether `at` can be jumped to.
    ///
    /// # Errors
    /// [`Fault::BadEntryPoint`] if it lies in no executable segment.
    pub fn check_entry(&self, at: VirtAddr) -> Result<(), Fault> {
        let inside = |s: &Segment| {
            s.executable
                && self
                    .offset_of(at, 1)
                    .is_some_and(|o| (s.image_offset..s.image_offset + s.memory_size).contains(&o))
        };
        if self.segments.iter().any(inside) {
            Ok(())
        } else {
            Err(Fault::BadEntryPoint { entry: at.0 })
        }
    }

    /// The image's pages by permission, in order and without overlap. Pages that no segment touches are left out.
    ///
    /// Where a segment ends and the next begins within one page, that page gets the permissions of both: there is
    /// no other way to serve such a file, and a kernel that wants strict separation aligns its segments.
    #[must_use]
    pub fn page_runs(&self) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        for s in &self.segments {
            let mut offset = page_down(s.image_offset);
            // Both fit: the image's size was checked to be page-aligned and within the number range.
            let end = page_up(s.image_offset + s.memory_size).unwrap_or(self.size);
            if let Some(last) = runs.last_mut()
                && last.offset + last.length > offset
            {
                let shared = PageRun {
                    offset,
                    length: PAGE_SIZE,
                    writable: last.writable || s.writable,
                    executable: last.executable || s.executable,
                };
                last.length -= PAGE_SIZE;
                if last.length == 0 {
                    runs.pop();
                }
                runs.push(shared);
                offset += PAGE_SIZE;
            }
            if offset < end {
                runs.push(PageRun {
                    offset,
                    length: end - offset,
                    writable: s.writable,
                    executable: s.executable,
                });
            }
        }
        runs
    }
}

/// The file header. Parsed apart from the rest, since the crate's all-in-one parser also wants a section header table,
/// which lies at the end of a file and is the first thing that a truncated one lacks.
fn header(file: &[u8]) -> Result<FileHeader<LittleEndian>, Fault> {
    const SIZE: usize = EI_NIDENT + ELF64_EHDR_TAILSIZE;
    if !file.starts_with(&ELFMAGIC) {
        return Err(Fault::NotElf("it does not start with the ELF magic"));
    }
    let (Some(ident), Some(tail)) = (file.get(..EI_NIDENT), file.get(EI_NIDENT..SIZE)) else {
        return Err(Fault::NotElf("truncated within its headers"));
    };
    let ident = parse_ident(ident).map_err(|e| header_fault(&e))?;
    FileHeader::parse_tail(ident, tail).map_err(|e| header_fault(&e))
}

fn program_headers<'f>(
    header: &FileHeader<LittleEndian>,
    file: &'f [u8],
) -> Result<SegmentTable<'f, LittleEndian>, Fault> {
    if header.e_phoff == 0 || header.e_phnum == 0 {
        return Err(Fault::NoSegments);
    }
    let entry = ProgramHeader::validate_entsize(header.class, header.e_phentsize.into())
        .map_err(|e| header_fault(&e))?;
    let table = usize::try_from(header.e_phoff).ok().and_then(|start| {
        let end = start.checked_add(entry * usize::from(header.e_phnum))?;
        file.get(start..end)
    });
    let table = table.ok_or(Fault::NotElf("truncated within its headers"))?;
    Ok(SegmentTable::new(header.endianness, header.class, table))
}

fn header_fault(error: &ParseError) -> Fault {
    match error {
        ParseError::UnsupportedElfClass(class) => Fault::WrongMachine {
            what: "its class is not 64-bit",
            found: (*class).into(),
        },
        ParseError::UnsupportedElfEndianness(order) => Fault::WrongMachine {
            what: "its byte order is not little-endian",
            found: (*order).into(),
        },
        ParseError::UnsupportedVersion(_) => Fault::NotElf("unknown version"),
        ParseError::BadEntsize(_) => {
            Fault::NotElf("its program header table has a wrong entry size")
        }
        _ => Fault::NotElf("truncated within its headers"),
    }
}

fn check_segment(index: usize, h: &ProgramHeader, file_size: u64) -> Result<(), Fault> {
    let end = h
        .p_offset
        .checked_add(h.p_filesz)
        .ok_or(Fault::SegmentWraps { index })?;
    if end > file_size {
        return Err(Fault::SegmentTruncated {
            index,
            end,
            size: file_size,
        });
    }
    if h.p_filesz > h.p_memsz {
        return Err(Fault::SegmentShrinks { index });
    }
    let top = h
        .p_vaddr
        .checked_add(h.p_memsz)
        .ok_or(Fault::SegmentWraps { index })?;
    if top > page_down(u64::MAX) {
        return Err(Fault::SegmentWraps { index });
    }
    // 0 and 1 both mean "no alignment" (ELF specification, Program Header).
    if h.p_align > 1
        && (!h.p_align.is_power_of_two() || (h.p_vaddr ^ h.p_offset) & (h.p_align - 1) != 0)
    {
        return Err(Fault::SegmentMisaligned {
            index,
            align: h.p_align,
        });
    }
    Ok(())
}

fn slide_for(
    start: u64,
    end: u64,
    relocatable: bool,
    lowest: usize,
    loads: &[(usize, ProgramHeader)],
) -> Result<u64, Fault> {
    if start >= KERNEL_BASE {
        return Ok(0);
    }
    if !relocatable {
        return Err(Fault::LowerHalf {
            index: lowest,
            vaddr: start,
        });
    }
    // The least slide that lifts the image to the higher half, rounded up to what every segment's alignment asks
    // for. An alignment of more than 1 GiB could not be met within the top 2 GiB in any case.
    let align = loads
        .iter()
        .map(|(_, h)| h.p_align)
        .max()
        .unwrap_or(0)
        .max(PAGE_SIZE);
    let too_large = Fault::ImageTooLarge { bytes: end - start };
    let slide = (KERNEL_BASE - start)
        .checked_next_multiple_of(align)
        .ok_or(too_large.clone())?;
    match end.checked_add(slide) {
        Some(end) if end <= page_down(u64::MAX) => Ok(slide),
        _ => Err(too_large),
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
pub(crate) mod tests;
