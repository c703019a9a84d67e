//! What the machine code of 64-bit and that of 32-bit threads share: the frame around it, the numbers that it takes from the
//! [page](torture::page), and the table of places behind it.

/// Puts the lines of a text into a section of its own, between the labels `NAME_text` and `NAME_end`, and defines `code`, which gives
/// it with its places. The lines have the labels `.LNAME_` and: `after_call`, `after_interrupt`, `after_yield`, `port`,
/// `watched`, `after_watched`, `invalid`, `stack`. Behind the semicolon come numbers that only this text uses.
macro_rules! machine_code {
    ($name:literal, $($line:expr,)+ ; $($own:ident = const $value:expr,)+) => {
        core::arch::global_asm!(
            concat!(".pushsection .rodata.", $name, ",\"a\",@progbits"),
            ".balign 64",
            concat!($name, "_text:"),
            $($line,)+
            concat!($name, "_end:"),
            // Where what is, from the start of the text.
            ".balign 8",
            concat!($name, "_places:"),
            concat!(".quad ", $name, "_end - ", $name, "_text"),
            concat!(".irp place, after_call, after_interrupt, after_yield, port, watched, after_watched, invalid, stack"),
            concat!(".quad .L", $name, "_\\place - ", $name, "_text"),
            ".endr",
            ".popsection",
            $($own = const $value,)+
            stack_load = const core::mem::offset_of!($crate::page::Step, stack.load),
            stack_want = const core::mem::offset_of!($crate::page::Step, stack.want),
            user_data = const torture::segments::DATA,
            stacks = const $crate::page::count::STACKS,
            found_stack = const core::mem::offset_of!($crate::page::Page, found_stack),
            bad_stack = const $crate::page::bad::STACK,
            touch = const $crate::page::How::Touch as u64,
            fresh = const core::mem::offset_of!($crate::page::Page, fresh),
            fresh_stride = const $crate::page::FRESH_STRIDE,
            fresh_half = const $crate::page::FRESH_STRIDE / 2,
            fresh_bit = const $crate::page::FRESH_BYTES.ilog2(),
            waits = const core::mem::offset_of!($crate::page::Step, waits),
            cancelled = const core::mem::offset_of!($crate::page::Step, cancelled),
            cancelled_status = const abi::Error::Cancelled as u64,
            cancelled_count = const $crate::page::count::CANCELLED,
            stop = const core::mem::offset_of!($crate::page::Page, stop),
            started = const core::mem::offset_of!($crate::page::Page, started),
            random = const core::mem::offset_of!($crate::page::Page, random),
            steps_used = const core::mem::offset_of!($crate::page::Page, steps_used),
            steps = const core::mem::offset_of!($crate::page::Page, steps),
            step = const core::mem::offset_of!($crate::page::Page, step),
            step_bytes = const size_of::<$crate::page::Step>(),
            cpu_selector = const abi::landing::CPU_NUMBER_SELECTOR,
            cpu = const core::mem::offset_of!($crate::page::Page, cpu),
            counters = const core::mem::offset_of!($crate::page::Page, counters),
            migrated = const $crate::page::count::MIGRATED,
            pinned = const core::mem::offset_of!($crate::page::Page, pinned),
            bad_cpu = const $crate::page::bad::CPU,
            board_shift = const $crate::page::BOARD_STRIDE.ilog2(),
            board_at = const $crate::page::BOARD,
            board = const core::mem::offset_of!($crate::page::Page, board),
            id = const core::mem::offset_of!($crate::page::Page, id),
            step_segments = const core::mem::offset_of!($crate::page::Step, segments),
            step_fpu = const core::mem::offset_of!($crate::page::Step, fpu),
            delay = const core::mem::offset_of!($crate::page::Step, delay),
            clock_now = const abi::Call::ClockNow as u64,
            load = const core::mem::offset_of!($crate::page::Step, load),
            want = const core::mem::offset_of!($crate::page::Step, want),
            mask = const core::mem::offset_of!($crate::page::Step, mask),
            repeat = const core::mem::offset_of!($crate::page::Step, repeat),
            left = const core::mem::offset_of!($crate::page::Page, left),
            how = const core::mem::offset_of!($crate::page::Step, how),
            path = const core::mem::offset_of!($crate::page::Page, path),
            watched = const core::mem::offset_of!($crate::page::Page, watched),
            yield_ = const abi::Call::Yield as u64,
            yields = const core::mem::offset_of!($crate::page::Page, yields),
            yields_count = const $crate::page::count::YIELDS,
            found = const core::mem::offset_of!($crate::page::Page, found),
            stack = const core::mem::offset_of!($crate::page::Page, stack),
            spin = const $crate::page::How::Spin as u64,
            preempted = const $crate::page::count::PREEMPTED,
            general = const $crate::page::GENERAL,
            bad_general = const $crate::page::bad::GENERAL,
            found_selectors = const core::mem::offset_of!($crate::page::Page, found_selectors),
            found_words = const core::mem::offset_of!($crate::page::Page, found_words),
            held_segments = const core::mem::offset_of!($crate::page::Page, held_segments),
            segments_bytes = const size_of::<$crate::page::Segments>(),
            segments_want = const core::mem::offset_of!($crate::page::Page, segments_want),
            segments_load = const core::mem::offset_of!($crate::page::Page, segments_load),
            bad_segments = const $crate::page::bad::SEGMENTS,
            looks = const core::mem::offset_of!($crate::page::Step, looks),
            look_slots = const $crate::page::looks::SLOTS,
            look_fpu = const $crate::page::looks::FPU,
            bad_slots = const $crate::page::bad::SLOTS,
            bad_fpu = const $crate::page::bad::FPU,
            rounds = const $crate::page::count::ROUNDS,
            counter = const core::mem::offset_of!($crate::page::Step, counter),
            bad_survived = const $crate::page::bad::SURVIVED,
            bad = const core::mem::offset_of!($crate::page::Page, bad),
            exit = const abi::Call::ProcessExit as u64,
            bad_code = const $crate::BAD,
            ports = const core::mem::offset_of!($crate::page::Page, ports),
            io_ports_enable = const abi::Call::IoPortsEnable as u64,
            bad_prepare = const $crate::page::bad::PREPARE,
            fpu_words = const core::mem::offset_of!($crate::page::Page, fpu_words),
            held_fpu = const core::mem::offset_of!($crate::page::Page, held_fpu),
            area_shift = const size_of::<$crate::page::Area>().ilog2(),
            fpu_load = const core::mem::offset_of!($crate::page::Page, fpu_load),
            fpu_want = const core::mem::offset_of!($crate::page::Page, fpu_want),
            fpu_mask = const core::mem::offset_of!($crate::page::Page, fpu_mask),
            fpu_found = const core::mem::offset_of!($crate::page::Page, fpu_found),
            fpu_loads = const $crate::page::count::FPU_LOADS,
            fpu_looks = const $crate::page::count::FPU_LOOKS,
            xsave = const core::mem::offset_of!($crate::page::Page, xsave),
            avx = const core::mem::offset_of!($crate::page::Page, avx),
            avx_at = const torture::fpu::AVX,
            slot_looks = const $crate::page::count::SLOT_LOOKS,
            found_limits = const core::mem::offset_of!($crate::page::Page, found_limits),
            limits = const core::mem::offset_of!($crate::page::Page, limits),
            first_slot = const abi::segment::TLS_FIRST_SELECTOR,
            segment_loads = const $crate::page::count::SEGMENT_LOADS,
        );

        unsafe extern "C" {
            #[link_name = concat!($name, "_text")]
            static TEXT: u8;
            #[link_name = concat!($name, "_places")]
            static PLACES: [u64; 9];
        }

        /// The machine code, and what is where in it.
        pub fn code() -> $crate::Code {
            // SAFETY: the assembly above defines both, read-only, and the places begin with the text's length.
            let (places, text) = unsafe {
                let text = core::slice::from_raw_parts(&raw const TEXT, PLACES[0] as usize);
                (PLACES, text)
            };
            let [_, after_call, after_interrupt, after_yield, port, watched, after_watched, invalid, stack] = places;
            $crate::Code { text, after_call, after_interrupt, after_yield, port, watched, after_watched, invalid, stack }
        }
    };
}
pub(crate) use machine_code;
