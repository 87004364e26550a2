//! Deliveries between their commit and their end: begun, tried, given up, and taken up again by hand.

use super::*;

/// Deliveries that one command changes.
const EDITED_MAX: usize = 10_000;

impl Core {
    /// Requests are about to leave whose repeats the other side would not know: after a crash their fate is unknown.
    pub(super) fn begin_deliveries(&self, queued: &[Queued], staged: &mut Staged) {
        for queued in queued {
            let key = keys::numbered_name(Tag::Delivery, &queued.delivery.destination, queued.number);
            let begun = Queued { begun: true, ..queued.clone() };
            staged.writes.put(key, codec::encode(Queued::VERSION, &begun));
        }
    }

    /// The queue's entry is changed, removed, or kept among those that were given up.
    pub(super) fn end_attempt(&self, attempt: &Attempt, staged: &mut Staged) {
        let queued = &attempt.queued;
        let destination = &queued.delivery.destination;
        let key = keys::numbered_name(Tag::Delivery, destination, queued.number);
        match attempt.outcome {
            AttemptOutcome::Retry { next_attempt_at } => {
                staged.writes.put(key, codec::encode(Queued::VERSION, &queued.again(next_attempt_at)));
            }
            AttemptOutcome::Sent | AttemptOutcome::Skipped | AttemptOutcome::DryRun => staged.writes.delete(key),
            AttemptOutcome::Failed | AttemptOutcome::Uncertain => {
                staged.writes.delete(key);
                let letter = DeadLetter {
                    queued: queued.again(0),
                    uncertain: attempt.outcome == AttemptOutcome::Uncertain,
                    detail: attempt.detail.clone(),
                    died_at: attempt.attempted_at,
                };
                let key = keys::numbered_name(Tag::DeadLetter, destination, queued.number);
                staged.writes.put(key, codec::encode(DeadLetter::VERSION, &letter));
            }
        }
    }

    /// Puts deliveries that were given up into their queues again, at the end, or forgets them. All commits before must be durable;
    /// `handled` are those that the same commit has changed already.
    pub(super) async fn edit_deliveries(
        &mut self,
        request: &DeliveriesRequest,
        handled: &mut HashSet<u64>,
        staged: &mut Staged,
    ) -> Result<DeliveriesEdited, EngineError> {
        let ids: Option<HashSet<&str>> = request.ids.as_ref().map(|ids| ids.iter().map(String::as_str).collect());
        let mut edited = DeliveriesEdited::default();
        // What waits for a destination that is gone is nobody's any more, and can be forgotten too.
        let gone = request.destination.as_ref().is_some_and(|name| !self.destinations.contains_key(name));
        let tags: &[Tag] = if gone && !request.retry { &[Tag::DeadLetter, Tag::Delivery] } else { &[Tag::DeadLetter] };
        for tag in tags {
            let prefix = match &request.destination {
                Some(name) => keys::named_prefix(*tag, name),
                None => keys::prefix(*tag),
            };
            if !self
                .edit_page_by_page((request.retry, *tag, &prefix), ids.as_ref(), handled, &mut edited, staged)
                .await?
            {
                break;
            }
        }
        Ok(edited)
    }

    /// False when the commit has taken as many as it may.
    async fn edit_page_by_page(
        &mut self,
        (retry, tag, prefix): (bool, Tag, &[u8]),
        ids: Option<&HashSet<&str>>,
        handled: &mut HashSet<u64>,
        edited: &mut DeliveriesEdited,
        staged: &mut Staged,
    ) -> Result<bool, EngineError> {
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.store.scan(prefix, after.as_deref(), 1_000).await?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            after = Some(last.clone());
            for (key, value) in page {
                let queued: Queued = match tag {
                    Tag::Delivery => codec::decode(Queued::VERSION, "delivery", &value)?,
                    _ => codec::decode::<DeadLetter>(DeadLetter::VERSION, "dead letter", &value)?.queued,
                };
                if ids.is_some_and(|ids| !ids.contains(queued.delivery.id.as_str())) || handled.contains(&queued.number)
                {
                    continue;
                }
                if retry && !self.destinations.contains_key(&queued.delivery.destination) {
                    edited.without_destination += 1;
                    continue;
                }
                if edited.changed as usize == EDITED_MAX {
                    edited.more = true;
                    return Ok(false);
                }
                edited.changed += 1;
                handled.insert(queued.number);
                staged.writes.delete(key);
                if retry {
                    let number = self.record.next_delivery;
                    self.record.next_delivery += 1;
                    let attempts_before = queued.attempts;
                    let queued = Queued { number, attempts_before, next_attempt_at: 0, begun: false, ..queued };
                    let key = keys::numbered_name(Tag::Delivery, &queued.delivery.destination, number);
                    staged.writes.put(key, codec::encode(Queued::VERSION, &queued));
                    staged.queued.push(queued);
                }
            }
        }
    }
}
