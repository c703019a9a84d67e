//! The echo server over the host's stand-in for the kernel.
#![cfg(not(target_env = "musl"))]

use std::time::Duration;

use rt::interfaces::echo::Client;
use rt::{CallError, Endpoint, Message, Rights, thread, time};

#[test]
fn gives_back_what_it_gets_until_its_endpoint_is_gone() {
    let endpoint = Endpoint::create().unwrap();
    let client = Client::new(endpoint.duplicate(Rights::SEND).unwrap());
    let server = thread::spawn(move || {
        let served = endpoint.duplicate(Rights::RECEIVE).unwrap();
        drop(endpoint);
        echo::serve(
            &served,
            echo::Echo {
                argument: "cpu 3".into(),
            },
        )
    });
    let server = server.unwrap();
    let soon = || time::after(Duration::from_secs(10));
    for word in [0, 1, u64::MAX] {
        assert_eq!(client.word(word, soon()), Ok(word));
    }
    let most = vec![0xA5; 4096];
    assert_eq!(client.bytes(most.as_slice(), soon()), Ok(most.clone()));
    assert!(matches!(
        client.bytes(vec![0; 4097], soon()),
        Err(CallError::Wire(_))
    ));
    assert_eq!(client.argument(soon()), Ok("cpu 3".into()));
    assert_eq!(
        client
            .endpoint()
            .call(Message::new(77), 0, soon())
            .unwrap()
            .label,
        1
    );
    assert!(!server.is_finished());
}
