//! The key-value store through which ranks find each other.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::time::Duration;

use crate::error::TorchError;
use crate::ffi::{self, call, millis, owned, text};

owned! {
    /// A client of the rendezvous store; the server, when there is one, lives as long as the `Store` that began it.
    Store, ffi::bt_store_free
}

impl Store {
    /// Begins a server on `host`:`port` and connects to it; port 0 takes a free one, which [`Store::port`] tells.
    ///
    /// Does not wait for the other ranks.
    ///
    /// # Errors
    /// the port is taken, or the name does not resolve
    pub fn serve(host: &str, port: u16, world_size: u32, timeout: Duration) -> Result<Store, TorchError> {
        Store::tcp(host, port, true, world_size, timeout)
    }

    /// Connects to the server on `host`:`port`, trying again until `timeout`.
    ///
    /// # Errors
    /// nobody answers in time
    pub fn connect(host: &str, port: u16, world_size: u32, timeout: Duration) -> Result<Store, TorchError> {
        Store::tcp(host, port, false, world_size, timeout)
    }

    fn tcp(host: &str, port: u16, server: bool, world: u32, timeout: Duration) -> Result<Store, TorchError> {
        let doing = || match server {
            true => format!("serving the rendezvous store on {host}:{port}"),
            false => format!("connecting to the rendezvous store on {host}:{port}"),
        };
        let name = text(doing, host)?;
        let store = call(doing, |err| {
            // SAFETY: `name` outlives the call; the shim copies it.
            unsafe {
                ffi::bt_store_tcp(name.as_ptr(), port, server.into(), world.into(), 0, millis(timeout), err)
            }
        })?;
        Ok(Store(store))
    }

    /// The server's port.
    ///
    /// # Errors
    /// this is a prefix of a store, not the store itself
    pub fn port(&self) -> Result<u16, TorchError> {
        let doing = || "asking the rendezvous store for its port".to_owned();
        // SAFETY: the handle is live.
        let port = call(doing, |err| unsafe { ffi::bt_store_port(self.0, err) })?;
        u16::try_from(port)
            .map_err(|_| TorchError::Libtorch { doing: doing(), message: format!("{port} is not a port") })
    }

    /// The same store with `prefix` before every key, so that a restarted attempt does not read old keys.
    ///
    /// # Errors
    /// `prefix` holds a NUL byte
    pub fn prefixed(&self, prefix: &str) -> Result<Store, TorchError> {
        let doing = || format!("prefixing the rendezvous store with {prefix}");
        let name = text(doing, prefix)?;
        // SAFETY: the handle is live, `name` outlives the call.
        call(doing, |err| unsafe { ffi::bt_store_prefix(self.0, name.as_ptr(), err) }).map(Store)
    }

    /// Sets `key`.
    ///
    /// # Errors
    /// the server is gone
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let doing = || format!("setting {key} in the rendezvous store");
        let name = text(doing, key)?;
        // SAFETY: the handle is live; `name` and `value` outlive the call, which copies them.
        call(doing, |err| unsafe {
            ffi::bt_store_set(self.0, name.as_ptr(), value.as_ptr(), value.len(), err)
        })
        .map(|_| ())
    }

    /// Waits until somebody has set `key`, at most the store's timeout, and gives its value.
    ///
    /// # Errors
    /// the server is gone, or nobody set the key in time
    pub fn get(&self, key: &str) -> Result<Vec<u8>, TorchError> {
        let doing = || format!("reading {key} from the rendezvous store");
        let name = text(doing, key)?;
        let mut length = 0;
        // SAFETY: the handle is live, `name` and `length` outlive the call.
        let bytes = call(doing, |err| unsafe { ffi::bt_store_get(self.0, name.as_ptr(), &mut length, err) })?;
        // SAFETY: on success the shim hands out `length` initialised bytes of its own.
        let value = unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec();
        // SAFETY: given out by `bt_store_get` a moment ago, and copied.
        unsafe { ffi::bt_bytes_free(bytes) };
        Ok(value)
    }

    /// Whether somebody has set `key`; does not wait.
    ///
    /// # Errors
    /// the server is gone
    pub fn has(&self, key: &str) -> Result<bool, TorchError> {
        let doing = || format!("looking for {key} in the rendezvous store");
        let name = text(doing, key)?;
        // SAFETY: the handle is live, `name` outlives the call.
        call(doing, |err| unsafe { ffi::bt_store_has(self.0, name.as_ptr(), err) }).map(|has| has > 0)
    }

    /// Adds to the counter `key` (0 at first) and gives the new count.
    ///
    /// # Errors
    /// the server is gone
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, TorchError> {
        let doing = || format!("counting {key} in the rendezvous store");
        let name = text(doing, key)?;
        // SAFETY: the handle is live, `name` outlives the call.
        call(doing, |err| unsafe { ffi::bt_store_add(self.0, name.as_ptr(), amount, err) })
    }
}
