//! The receiver of webhooks: takes, refuses, hangs, and lies about which of these it did. What its statuses mean to the
//! engine is the real webhook's judgement.

use async_trait::async_trait;
use reqwest::StatusCode;
use tributary::activation::Delivery;
use tributary::clock;
use tributary::event::TimeUs;
use tributary::sink::webhook::judge;
use tributary::sink::{Destination, Outcome};

use super::faults::Fault;
use super::{Instance, millis};

/// As the client's.
const TIMEOUT_MS: u64 = 15_000;

/// A request that came in whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub id: String,
    pub destination: String,
    pub body: String,
    /// Whether the receiver acts on it.
    pub taken: bool,
}

pub struct SimReceiver {
    pub here: Instance,
    /// False: as mail. What comes twice is done twice.
    pub drops_repeats: bool,
}

#[async_trait]
impl Destination for SimReceiver {
    async fn send(&self, delivery: &Delivery, _: TimeUs) -> Outcome {
        let here = &self.here;
        let broken = |detail: &str| Outcome::Retry { detail: detail.to_string(), after: None };
        // It may have been taken.
        let unknown = |detail: &str| match self.drops_repeats {
            true => broken(detail),
            false => Outcome::Uncertain(detail.to_string()),
        };
        here.reach("send").await;
        if here.strikes(Fault::SendReset) {
            return broken("connection refused");
        }
        let receive = |taken: bool| {
            let receipt = Receipt {
                id: delivery.id.clone(),
                destination: delivery.destination.clone(),
                body: delivery.body.clone(),
                taken,
            };
            here.world().receipts.push(receipt);
        };
        let refuse = |status: StatusCode, after_s: Option<u64>| {
            receive(false);
            judge(status, after_s.map(std::time::Duration::from_secs))
        };
        if here.strikes(Fault::Send429) {
            let after_s = here.random(|random| random.u64(0..3_600));
            return refuse(StatusCode::TOO_MANY_REQUESTS, Some(after_s));
        }
        if here.strikes(Fault::Send503) {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, None);
        }
        // What a list refuses for good, it lacks.
        if delivery.destination != "list" && here.strikes(Fault::Send400) {
            return refuse(StatusCode::BAD_REQUEST, None);
        }
        if here.strikes(Fault::SendHangs) {
            receive(false);
            clock::sleep(millis(TIMEOUT_MS)).await;
            return unknown("no answer");
        }
        if here.strikes(Fault::SendLate) {
            receive(true);
            clock::sleep(millis(TIMEOUT_MS)).await;
            here.reach("sent late").await;
            return unknown("no answer");
        }
        if here.strikes(Fault::SendSlow) {
            let takes = here.random(|random| random.u64(0..TIMEOUT_MS));
            clock::sleep(millis(takes)).await;
            here.reach("sending").await;
        }
        receive(true);
        here.reach("sent").await;
        if here.strikes(Fault::SendAnswerLost) {
            return unknown("connection reset");
        }
        if here.strikes(Fault::SendLies) {
            if !self.drops_repeats {
                return unknown("HTTP 500");
            }
            return judge(StatusCode::INTERNAL_SERVER_ERROR, None);
        }
        judge(StatusCode::OK, None)
    }

    fn drops_repeats(&self) -> bool {
        self.drops_repeats
    }
}
