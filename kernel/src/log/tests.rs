//! The log as a whole. It is one for the process, so this is one test, in the order of a boot.

use super::*;

use core::sync::atomic::AtomicU64;

static TIME: AtomicU64 = AtomicU64::new(0);
static SENT: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
static NOTIFIED: AtomicU32 = AtomicU32::new(0);

fn clock() -> u64 {
    TIME.load(Ordering::Relaxed)
}

fn serial(bytes: &[u8]) {
    SENT.lock().expect("no test panics in here").extend(bytes);
}

fn sent() -> String {
    let bytes = core::mem::take(&mut *SENT.lock().expect("no test panics in here"));
    String::from_utf8(bytes).expect("the log is UTF-8")
}

fn notify() {
    NOTIFIED.fetch_add(1, Ordering::Relaxed);
}

/// A value that logs while it is being logged.
struct Chatty;

impl fmt::Display for Chatty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ::log::info!("inner");
        f.write_str("outer")
    }
}

#[test]
fn the_log_from_boot_to_panic() {
    init();
    ::log::info!("before any device");
    ::log::debug!("not at this level");
    set_clock(clock);
    TIME.store(1_500_000_000, Ordering::Relaxed);
    set_serial(serial);
    ::log::warn!("two\nlines");
    assert_eq!(
        sent(),
        "[    0.000000] before any device\r\n[    1.500000] warning: two\r\n[    1.500000] warning: lines\r\n"
    );
    set_level(level_from_command_line("log=debug").expect("a level"));
    ::log::debug!("now {Chatty}");
    assert_eq!(
        sent(),
        "[    1.500000] inner\r\n[    1.500000] debug: now outer\r\n"
    );

    // A framebuffer without sense is refused, and uses the static cells up.
    let info = FramebufferInfo {
        width: 640,
        height: 480,
        pitch: 100,
        ..FramebufferInfo::default()
    };
    // SAFETY: a screen of this shape is refused before anything is written.
    let refused = unsafe { set_screen(core::ptr::null_mut(), &info) };
    assert_eq!(refused, Err(ScreenError::BadPitch));

    // The console takes the devices.
    set_notify(notify);
    assert!(!take_growth());
    let position = end();
    assert!(take());
    assert!(!take());
    write_text(b"from \xFFa program\nand more");
    assert_eq!(sent(), "");
    assert_eq!(
        NOTIFIED.load(Ordering::Relaxed),
        1,
        "one call until the growth is taken"
    );
    assert!(take_growth());
    assert!(!take_growth());
    let mut buffer = [0; 256];
    let (count, next) = read(position, &mut buffer);
    assert_eq!(
        core::str::from_utf8(&buffer[..count]),
        Ok("[    1.500000] from \u{FFFD}a program\n[    1.500000] and more\n")
    );
    assert_eq!(next, end());
    ::log::info!("again");
    assert_eq!(NOTIFIED.load(Ordering::Relaxed), 2);
    untake();
    assert!(!take_growth());
    ::log::info!("back");
    assert_eq!(sent(), "[    1.500000] back\r\n");

    // A panic while somebody holds the lock and the devices are taken.
    assert!(take());
    let held = SINKS.lock();
    // SAFETY: no other thread logs; `held` is not used until the end.
    unsafe {
        enter_panic();
        panic_write(format_args!("dying: {}", 7));
    }
    ::log::info!("mute");
    emergency(b"!");
    drop(held);
    assert_eq!(sent(), "[    1.500000] dying: 7\r\n!");
    PANIC.store(false, Ordering::SeqCst);
    ::log::info!("not for the devices");
    assert_eq!(sent(), "");
    untake();
    sent();
    ::log::info!("after");
    assert_eq!(sent(), "[    1.500000] after\r\n");
    let mut tail = [0; 128];
    let (count, _) = read(end() - 106, &mut tail);
    let tail = core::str::from_utf8(&tail[..count]).expect("the log is UTF-8");
    assert!(
        tail.contains("warning: lines lost from the log: 1\n"),
        "{tail}"
    );
}
