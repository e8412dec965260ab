//! One named counter per reason to drop: bytes from the network never raise, they are counted here.

macro_rules! drops {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// Why something was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Drop {
            $(#[doc = $meaning] $variant,)*
        }

        impl Drop {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Drop] = &[$(Drop::$variant,)*];

            /// The counter's name in `f2ftun status --drops`.
            pub fn name(self) -> &'static str {
                match self { $(Drop::$variant => $name,)* }
            }
        }
    };
}

drops! {
    RxMalformed "rx_malformed" "Datagram of no known type or of a wrong length.",
    RxBadMac "rx_bad_mac" "Handshake whose mac1 is not right, or that carries what must be zero.",
    RxUnderLoad "rx_under_load" "Initiation answered with a cookie reply only.",
    RxStale "rx_stale" "Initiation with a timestamp seen before.",
    RxStranger "rx_stranger" "Initiation of a key that is no friend's, or that cannot be read.",
    RxUnknownPsk "rx_unknown_psk" "Initiation that names a psk we do not hold.",
    RxUnexpected "rx_unexpected" "Response or cookie reply that nothing was sent for, or that does not verify.",
    RxUnknownIndex "rx_unknown_index" "Data for no session of ours.",
    RxReplayed "rx_replayed" "Data with a counter seen before, or left of the window.",
    RxForged "rx_forged" "Data whose tag does not verify.",
    RxExpired "rx_expired" "Data on a session past its time.",
    RxBadFrame "rx_bad_frame" "Authentic data with a malformed frame.",
    RxBadSource "rx_bad_source" "Packet from a peer that may send none.",
    RxBadHeader "rx_bad_header" "Packet with a header that is not let through, or shorter than it says.",
    RxTooLarge "rx_too_large" "Packet or fragment pair larger than the TUN takes.",
    RxFragmentLost "rx_fragment_lost" "Fragment whose other half did not come in time.",
    RxEventsFull "rx_events_full" "Control message while the control plane lags.",
    RxTunRefused "rx_tun_refused" "Packet that the kernel did not take from us.",
    TxNotIpv6 "tx_not_ipv6" "Packet from the TUN that is not IPv6.",
    TxBadLength "tx_bad_length" "Packet from the TUN shorter or longer than its header says.",
    TxBadSource "tx_bad_source" "Packet from the TUN whose source is not our address.",
    TxBadHeader "tx_bad_header" "Packet from the TUN with a header that does not travel.",
    TxNotOverlay "tx_not_overlay" "Packet from the TUN to an address outside fc00::/8.",
    TxNoFriend "tx_no_friend" "Packet to an address that is no friend's.",
    TxTooBig "tx_too_big" "Packet larger than two fragments on the path to that friend.",
    TxUnreachable "tx_unreachable" "Packet to a friend who does not answer.",
    TxQueueFull "tx_queue_full" "Packet to a friend whose queue is full.",
    TxCodel "tx_codel" "Packet dropped early, so that a queue stays short (CoDel).",
    TxBackpressure "tx_backpressure" "Datagram that the kernel's class of the friend had no room for.",
    TxRefused "tx_refused" "Datagram that the kernel refused: no route, not permitted.",
}

/// The counters.
#[derive(Clone, Debug)]
pub struct Drops([u64; Drop::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; Drop::ALL.len()])
    }
}

impl Drops {
    /// Count one.
    pub fn count(&mut self, reason: Drop) {
        self.add(reason, 1);
    }

    /// Count several.
    pub fn add(&mut self, reason: Drop, times: u64) {
        self.0[reason as usize] += times;
    }

    /// How often so far.
    pub fn of(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }

    /// Every counter with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Drop::ALL.iter().map(|&reason| (reason.name(), self.of(reason)))
    }
}
