//! Typed interfaces: written once, both ends made from it.

/// Makes a module with the client and the server of a protocol.
///
/// Each operation has a number (the message's label), arguments and a result, all [`Wire`](crate::wire::Wire) types:
///
/// ```
/// rt::interface! {
///     /// Counts.
///     pub mod counter {
///         /// Adds, and tells the sum.
///         1 => add(amount: u64) -> u64;
///         /// Names it.
///         2 => name() -> String;
///     }
/// }
///
/// struct Sum(u64);
/// impl counter::Server for Sum {
///     fn add(&mut self, _: &mut rt::Caller, amount: u64) -> rt::Outcome<u64> {
///         self.0 += amount;
///         rt::Outcome::Done(self.0)
///     }
///     fn name(&mut self, _: &mut rt::Caller) -> rt::Outcome<String> {
///         rt::Outcome::Done("sum".into())
///     }
/// }
/// ```
///
/// The module has `Client` (a method for each operation, with a deadline as its last argument; strings may be given as
/// `&str`, byte strings as `&[u8]`, kernel objects by value, which moves them, or by reference, which copies them),
/// `Server` (a trait with a method for each operation, and `dispatch`, which turns a message into its answer for
/// [`Endpoint::serve_next`](crate::Endpoint::serve_next)), and `HANDLES`, the most handles that a request brings.
#[macro_export]
macro_rules! interface {
    (
        $(#[$doc:meta])*
        $vis:vis mod $name:ident {
            $(
                $(#[$operation_doc:meta])*
                $label:literal => $operation:ident ( $($argument:ident : $type:ty),* $(,)? ) -> $result:ty;
            )*
        }
    ) => {
        $(#[$doc])*
        $vis mod $name {
            #[allow(unused_imports, reason = "the operations' types are named as around the module")]
            use super::*;

            /// The most handles that a request brings.
            pub const HANDLES: usize = {
                let mut most = 0;
                $({
                    let handles = 0 $(+ <$type as $crate::wire::Wire>::HANDLES)*;
                    if handles > most {
                        most = handles;
                    }
                })*
                most
            };

            /// The client's end.
            #[derive(Debug)]
            pub struct Client {
                endpoint: $crate::Endpoint,
            }

            impl From<$crate::OwnedHandle> for Client {
                fn from(handle: $crate::OwnedHandle) -> Client {
                    Client { endpoint: $crate::Endpoint::from_handle(handle) }
                }
            }

            #[allow(clippy::missing_errors_doc, reason = "all of CallError, as any call of an interface")]
            impl Client {
                /// A client of the server behind this endpoint.
                pub const fn new(endpoint: $crate::Endpoint) -> Client {
                    Client { endpoint }
                }

                /// The endpoint.
                pub const fn endpoint(&self) -> &$crate::Endpoint {
                    &self.endpoint
                }

                $(
                    $(#[$operation_doc])*
                    pub fn $operation(
                        &self,
                        $($argument: impl $crate::wire::Carries<$type>,)*
                        deadline: $crate::Deadline,
                    ) -> ::core::result::Result<$result, $crate::CallError> {
                        #[allow(unused_mut, reason = "an operation without arguments")]
                        let mut encoder = $crate::wire::Encoder::new($label);
                        $($crate::wire::Carries::<$type>::encode($argument, &mut encoder)?;)*
                        $crate::call::invoke(&self.endpoint, encoder.finish(), deadline)
                    }
                )*
            }

            /// The server's end.
            pub trait Server {
                $(
                    $(#[$operation_doc])*
                    fn $operation(
                        &mut self,
                        caller: &mut $crate::Caller,
                        $($argument: $type,)*
                    ) -> $crate::Outcome<$result>;
                )*

                /// Turns a message into its answer, if it is to be answered now.
                fn dispatch(
                    &mut self,
                    mut received: $crate::Received,
                ) -> Option<($crate::Reply, $crate::Message)> {
                    let mut caller = $crate::Caller::new(&mut received);
                    match received.label {
                        $(
                            $label => {
                                let arguments = (|| {
                                    #[allow(unused_mut, reason = "an operation without arguments")]
                                    let mut decoder = $crate::wire::Decoder::new(received);
                                    let arguments =
                                        ($(<$type as $crate::wire::Wire>::decode(&mut decoder)?,)*);
                                    decoder.finish()?;
                                    Ok::<_, $crate::wire::WireError>(arguments)
                                })();
                                let outcome = match arguments {
                                    Ok(($($argument,)*)) => self.$operation(&mut caller, $($argument),*),
                                    Err(error) => $crate::Outcome::Failed($crate::Failure::new(
                                        $crate::FailureKind::BadMessage,
                                        error.text(),
                                    )),
                                };
                                caller.finish(outcome)
                            }
                        )*
                        _ => caller.finish($crate::Outcome::<()>::Failed(
                            $crate::FailureKind::UnknownOperation.into(),
                        )),
                    }
                }
            }
        }
    };
}
