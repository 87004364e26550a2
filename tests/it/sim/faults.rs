//! What can go wrong, how often, and what did.

use tributary::clock::simulated;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident,)*) => {
        /// A fault, by the place where it strikes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        pub const ALL: &[Fault] = &[$(Fault::$fault,)*];
    };
}

faults! {
    /// The process is killed: at any point between two steps of a commit, a shipment or a delivery.
    Crash,
    /// The same at no point in particular, by the clock.
    CrashByClock,
    /// A second instance takes over while the first goes on.
    Takeover,
    /// Asked to stop, and started again.
    Stop,
    ClockForward,
    ClockBack,
    ReadFails,
    CommitSlow,
    /// Nothing of the commit is durable.
    CommitFails,
    /// All of it is, and nobody is told.
    CommitAnswerLost,
    PrepareFails,
    InsertRefused,
    /// Cut before the server had all of it.
    InsertCut,
    /// The server wrote one of two parts.
    InsertPartial,
    /// Written, and nobody is told.
    InsertAnswerLost,
    /// Written, after the client has given up or died.
    InsertLate,
    InsertHangs,
    InsertSlow,
    KillRefused,
    CountFails,
    /// The tables cannot be read back.
    HistoryFails,
    HistorySlow,
    SourceAway,
    SourceSlow,
    SendSlow,
    /// Taken, and the connection is reset before the answer.
    SendAnswerLost,
    /// Taken, after the client has given up.
    SendLate,
    /// Taken, and answered with 500.
    SendLies,
    SendHangs,
    SendReset,
    Send429,
    Send503,
    Send400,
}

/// How often each strikes in this world, per 10,000 times that it could, and a record of those that did.
#[derive(Debug)]
pub struct Faults {
    rates: Vec<u32>,
    pub random: fastrand::Rng,
    /// None strikes any more: the world comes to rest.
    pub calm: bool,
    pub struck: Vec<u32>,
    /// Moment, instance, what happened.
    trace: Vec<(i64, u32, String)>,
}

impl Faults {
    /// Each seed has its own mixture: some faults never, some now and then, some often, so that rare combinations come up.
    pub fn of(mut random: fastrand::Rng) -> Faults {
        let rate = |fault: &Fault| {
            let often = match fault {
                Fault::Crash => 150,
                Fault::CrashByClock | Fault::Takeover | Fault::Stop | Fault::ClockForward | Fault::ClockBack => 2_000,
                Fault::ReadFails => 3,
                Fault::CommitFails | Fault::CommitAnswerLost => 300,
                Fault::Send400 => 300,
                _ => 2_500,
            };
            match random.u8(0..4) {
                0 => 0,
                1 | 2 => often / 5,
                _ => often,
            }
        };
        let rates = ALL.iter().map(rate).collect();
        Faults { rates, random, calm: false, struck: vec![0; ALL.len()], trace: Vec::new() }
    }

    /// Whether it happens now.
    pub fn strikes(&mut self, fault: Fault, instance: u32) -> bool {
        let rate = self.rates[fault as usize];
        if self.calm || rate == 0 || self.random.u32(0..10_000) >= rate {
            return false;
        }
        self.struck[fault as usize] += 1;
        self.note(instance, format!("{fault:?}"));
        true
    }

    pub fn note(&mut self, instance: u32, what: String) {
        self.trace.push((simulated::elapsed_us(), instance, what));
    }

    /// What happened, oldest first, a line each.
    pub fn trace(&self) -> Vec<String> {
        let line = |(at_us, instance, what): &(i64, u32, String)| {
            format!("{:>12.3} s  #{instance} {what}", *at_us as f64 / 1e6)
        };
        self.trace.iter().map(line).collect()
    }
}
