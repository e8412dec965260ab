//! The module `f2ftun._dataplane`: arguments checked and passed on, nothing decided. The interpreter's lock is let go of while the
//! device's thread acts.
#![allow(missing_docs)] // The Python side documents itself: f2ftun/dataplane.py, _dataplane.pyi.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, sync_channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::core::handshake::{FEATURES, FEATURE_AES, FEATURE_HYBRID};
use crate::core::key::{address_of_key, public_key, Key};
use crate::core::node::{Event, Node, Settings};
use crate::core::peer::Peer;
use crate::core::tables::{PeerTable, Refused};
use crate::io::engine::{Command, Engine, Notice, Outlet};
use crate::io::sys;
use crate::io::tun::Tun;
use crate::io::udp::Udp;

const PROTOCOL_VERSION: u32 = 1;
/// Attempts after which a friend being dialled counts as down.
const DOWN_AFTER_ATTEMPTS: u32 = crate::core::dialling::ATTEMPTS;

type PeerRow = (Key, &'static str, Option<String>, Option<f64>, Option<f64>, u64, u64, u64, u64, usize, bool);

enum State {
    Idle(Box<Engine>),
    Running { commands: Sender<Command>, thread: JoinHandle<()> },
    Stopped,
}

/// One node's data plane.
#[pyclass(frozen)]
struct Device {
    state: Mutex<State>,
    wake: Arc<OwnedFd>,
    outlet: Arc<Outlet>,
    underlay_mtu: usize,
    #[pyo3(get)]
    listen: String,
    #[pyo3(get)]
    offloads: Vec<&'static str>,
}

fn key_of(bytes: &[u8], what: &str) -> PyResult<Key> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("{what} has {} bytes, not 32", bytes.len())))
}

fn address_of(bytes: &[u8]) -> PyResult<[u8; 16]> {
    bytes.try_into().map_err(|_| PyValueError::new_err(format!("address has {} bytes, not 16", bytes.len())))
}

fn endpoint_of(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is not ADDR:PORT with a literal address")))
}

fn interval_of(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| PyValueError::new_err(format!("{seconds} is no length of time")))
}

/// The kernel's error as Python has it, with its number.
fn os_error(error: io::Error) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string()))
}

/// The same about a file.
fn path_error(error: io::Error, path: &str) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string(), path.to_owned()))
}

/// Open a key log for appending: one that is new, or a plain file of ours that nobody else may read.
fn open_keylog(path: &str) -> io::Result<File> {
    let options = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(options).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.mode() & 0o077 != 0 || found.nlink() != 1 || found.uid() != sys::user() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(file)
}

fn refusal(refused: Refused) -> PyErr {
    PyValueError::new_err(match refused {
        Refused::Key => "the key has low order, or is this node's own",
        Refused::Endpoint => "an endpoint lies in fc00::/8, has port 0, or is one of more than 16",
        Refused::Address => "the address is this node's own or another peer's",
    })
}

fn row_of(peer: &Peer, now: Duration) -> PeerRow {
    let age = |at: Duration| now.saturating_sub(at).as_secs_f64();
    let is_up = peer.is_live(now) && !peer.is_lost;
    let is_dialled = peer.dial.is_some_and(|dial| dial.attempts <= DOWN_AFTER_ATTEMPTS);
    let session = peer.current.as_deref();
    (
        peer.key,
        if is_up {
            "up"
        } else if is_dialled {
            "connecting"
        } else {
            "down"
        },
        peer.endpoint.map(|endpoint| endpoint.remote.to_string()),
        peer.rtt.map(|rtt| rtt.as_secs_f64()),
        session.map(|session| age(session.created_at)),
        peer.traffic.rx_bytes,
        peer.traffic.tx_bytes,
        peer.traffic.rx_datagrams,
        peer.traffic.tx_datagrams,
        peer.size.as_ref().map_or(0, |size| size.current),
        session.is_some_and(|session| session.is_hybrid),
    )
}

fn event_row(notice: Notice) -> (&'static str, Vec<u8>, Vec<u8>) {
    match notice {
        Notice::Event(Event::Session(key, from)) => ("session", key.to_vec(), from.remote.to_string().into_bytes()),
        Notice::Event(Event::Roamed(key, to)) => ("roamed", key.to_vec(), to.remote.to_string().into_bytes()),
        Notice::Event(Event::Lost(key)) => ("lost", key.to_vec(), Vec::new()),
        Notice::Event(Event::Unreachable(key)) => ("unreachable", key.to_vec(), Vec::new()),
        Notice::Event(Event::Control(key, message)) => ("control", key.to_vec(), message),
        Notice::Stopped(reason) => ("stopped", Vec::new(), reason.into_bytes()),
    }
}

#[pymethods]
impl Device {
    #[new]
    #[pyo3(signature = (*, private_key, tun_fd, listen, mtu, underlay_mtu=1500, keylog=None))]
    fn new(
        private_key: &[u8],
        tun_fd: i32,
        listen: &str,
        mtu: usize,
        underlay_mtu: usize,
        keylog: Option<&str>,
    ) -> PyResult<Self> {
        let tun = sys::borrow(tun_fd).and_then(Tun::new).map_err(os_error)?;
        let udp = Udp::bind(endpoint_of(listen)?).map_err(os_error)?;
        let private = key_of(private_key, "private key")?;
        let mut settings = Settings {
            private,
            address: address_of_key(&public_key(&private)),
            mtu,
            underlay_mtu,
            rejoin_udp: tun.has_uso,
            keylog: keylog.is_some(),
            features: FEATURE_HYBRID | if sys::has_fast_aes() { FEATURE_AES } else { 0 },
            seed: [0; 32],
        };
        sys::entropy(&mut settings.seed).map_err(os_error)?;
        let keylog = keylog.map(|path| open_keylog(path).map_err(|error| path_error(error, path))).transpose()?;
        let known = [(tun.has_tso, "tso"), (tun.has_uso, "uso"), (udp.has_gso(), "udp-gso"), (udp.has_gro, "udp-gro")];
        let offloads = known.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        let (listen, outlet) = (udp.local_addr().map_err(os_error)?.to_string(), Outlet::new().map_err(os_error)?);
        let engine = Engine::new(Node::new(&settings, sys::now()), tun, udp, outlet.clone(), keylog);
        let state = Mutex::new(State::Idle(Box::new(engine)));
        Ok(Self { state, wake: Arc::new(sys::eventfd().map_err(os_error)?), outlet, underlay_mtu, listen, offloads })
    }

    fn start(&self) -> PyResult<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Idle(mut engine) = std::mem::replace(&mut *state, State::Stopped) else {
            return Err(PyRuntimeError::new_err("the device was started before"));
        };
        let (commands, received) = channel::<Command>();
        let (wake, outlet) = (self.wake.clone(), self.outlet.clone());
        let run = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| engine.run(&received, &wake)));
            drop(engine);
            outlet.put(Notice::Stopped(match ended {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "a defect in the data plane; please report it".into(),
            }));
        };
        let thread = std::thread::Builder::new().name("f2ftun-data".into()).spawn(run).map_err(os_error)?;
        *state = State::Running { commands, thread };
        Ok(())
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let State::Running { commands, thread } = std::mem::replace(&mut *state, State::Stopped) {
                drop(commands);
                sys::ring(&self.wake);
                // A thread that panicked has said so in its last event.
                let _ = thread.join();
            }
        });
    }

    #[pyo3(signature = (public_key, *, address, psk, endpoints, keepalive_s, own_private_key=None))]
    #[allow(clippy::too_many_arguments)]
    fn set_peer(
        &self,
        py: Python<'_>,
        public_key: &[u8],
        address: Option<&[u8]>,
        psk: &[u8],
        endpoints: Vec<String>,
        keepalive_s: f64,
        own_private_key: Option<&[u8]>,
    ) -> PyResult<()> {
        let key = key_of(public_key, "public key")?;
        let table = PeerTable {
            address: address.map(address_of).transpose()?,
            psk: key_of(psk, "psk")?,
            endpoints: endpoints.iter().map(|text| endpoint_of(text)).collect::<PyResult<_>>()?,
            keepalive: interval_of(keepalive_s)?,
            own_private: own_private_key.map(|bytes| key_of(bytes, "own private key")).transpose()?,
        };
        self.with(py, move |node, now| node.set_peer(key, table, now))?.map_err(refusal)
    }

    fn remove_peer(&self, py: Python<'_>, public_key: &[u8]) -> PyResult<bool> {
        let key = key_of(public_key, "public key")?;
        self.with(py, move |node, _| node.remove_peer(&key))
    }

    fn set_hybrid_psk(&self, py: Python<'_>, public_key: &[u8], psk: &[u8], initiate: bool) -> PyResult<bool> {
        let (key, psk) = (key_of(public_key, "public key")?, key_of(psk, "psk")?);
        self.with(py, move |node, now| node.set_hybrid_psk(&key, psk, initiate, now))
    }

    fn send_control(&self, py: Python<'_>, public_key: &[u8], payload: Vec<u8>) -> PyResult<bool> {
        let key = key_of(public_key, "public key")?;
        self.with(py, move |node, now| node.send_control(&key, &payload, now))
    }

    fn dial(&self, py: Python<'_>, public_key: &[u8]) -> PyResult<bool> {
        let key = key_of(public_key, "public key")?;
        self.with(py, move |node, now| node.dial(&key, now))
    }

    #[pyo3(signature = (underlay_mtu=None))]
    fn network_changed(&self, py: Python<'_>, underlay_mtu: Option<usize>) -> PyResult<()> {
        let mtu = underlay_mtu.unwrap_or(self.underlay_mtu);
        self.with(py, move |node, now| node.handle_network_change(mtu, now))
    }

    fn peers(&self, py: Python<'_>) -> PyResult<Vec<PeerRow>> {
        self.with(py, |node, now| node.peers().map(|peer| row_of(peer, now)).collect())
    }

    fn drops(&self, py: Python<'_>) -> PyResult<HashMap<&'static str, u64>> {
        self.with(py, |node, _| node.drops().iter().collect())
    }

    fn poll_event(&self) -> Option<(&'static str, Vec<u8>, Vec<u8>)> {
        self.outlet.take().map(event_row)
    }

    fn event_fd(&self) -> i32 {
        self.outlet.fd.as_raw_fd()
    }
}

impl Device {
    /// Have the device's thread do something with the node, and wait for what comes of it.
    fn with<R: Send + 'static>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut Node, Duration) -> R + Send + 'static,
    ) -> PyResult<R> {
        let result = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Idle(engine) => Some(act(&mut engine.node, sys::now())),
                State::Running { commands, .. } => {
                    let (answer, answered) = sync_channel(1);
                    let command = Box::new(move |node: &mut Node, now| {
                        // The asker waits below, or is gone with its process.
                        let _ = answer.send(act(node, now));
                    });
                    commands.send(command).ok()?;
                    sys::ring(&self.wake);
                    answered.recv().ok()
                }
                State::Stopped => None,
            }
        });
        result.ok_or_else(|| PyRuntimeError::new_err("the device has stopped"))
    }
}

#[pymodule]
fn _dataplane(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PROTOCOL_VERSION", PROTOCOL_VERSION)?;
    module.add("FEATURES", FEATURES)?;
    module.add_class::<Device>()
}
