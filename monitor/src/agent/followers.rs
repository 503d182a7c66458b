//! Who looks at every event besides the recording: the metrics, those who follow alerts, and the
//! summary of each instance.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::{broadcast, mpsc};

use super::{
    metrics::{Metrics, Series},
    on_alert::OnAlert,
    request::Told,
    state::StateDirectory,
};
use crate::{
    event::{Body, Event},
    sink::{Audience, summary::Summary},
};

/// Alerts that are kept for who asks later.
const KEPT: usize = 1000;
/// Alerts that a slow follower may be behind.
const BEHIND: usize = 1024;
/// Lines that a launcher may be behind.
const TOLD: usize = 256;

/// See the module.
pub struct Followers {
    metrics: Arc<Metrics>,
    state: StateDirectory,
    on_alert: OnAlert,
    read_before: (u64, u64),
    instances: HashMap<u32, Followed>,
    kept: VecDeque<Told>,
    follow: broadcast::Sender<Told>,
}

struct Followed {
    uid: u32,
    summary: Summary,
    series: Series,
    launcher: mpsc::Sender<Arc<str>>,
    events: u64,
    alerts: u64,
}

impl Followers {
    /// Nobody yet.
    /// `read_before` is [`crate::kernel::Kernel::read_before`].
    pub fn new(
        metrics: Arc<Metrics>,
        state: StateDirectory,
        on_alert: OnAlert,
        read_before: (u64, u64),
    ) -> Self {
        let (follow, _) = broadcast::channel(BEHIND);
        Self {
            metrics,
            state,
            on_alert,
            read_before,
            instances: HashMap::new(),
            kept: VecDeque::new(),
            follow,
        }
    }

    /// All alerts to come, whosever they are.
    pub fn follow(&self) -> broadcast::Receiver<Told> {
        self.follow.subscribe()
    }

    /// What has gone wrong with the command that is run for alerts, since the last call.
    pub fn trouble(&mut self) -> Option<String> {
        self.on_alert.trouble()
    }

    /// The latest alerts.
    pub fn kept(&self) -> impl Iterator<Item = &Told> {
        self.kept.iter()
    }

    /// Begins to follow an instance; lines for its launcher.
    pub fn begin(&mut self, instance: u32, server: &str, uid: u32) -> mpsc::Receiver<Arc<str>> {
        let (launcher, told) = mpsc::channel(TOLD);
        let followed = Followed {
            uid,
            summary: Summary::default(),
            series: self.metrics.series(server),
            launcher,
            events: 0,
            alerts: 0,
        };
        self.instances.insert(instance, followed);
        told
    }

    /// Events and alerts of an instance.
    pub fn counts(&self, instance: u32) -> (u64, u64) {
        self.instances.get(&instance).map_or((0, 0), |of| (of.events, of.alerts))
    }

    /// Forgets an instance; its summary.
    pub fn end(&mut self, instance: u32, server: &str) -> String {
        let Some(followed) = self.instances.remove(&instance) else { return String::new() };
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = followed.summary.write(&mut text, server, None);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn tell(&mut self, event: &Event) {
        let line: Arc<str> = event.to_json().into();
        if event.is_alert() {
            self.on_alert.alert(&line);
        }
        let followed = self.instances.get(&event.instance);
        if let Some(followed) = followed {
            // A launcher that does not read misses lines, as whoever reads the recording does not.
            let _ = followed.launcher.try_send(line.clone());
        }
        let told = Told { uid: followed.map_or(0, |followed| followed.uid), line };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(told.clone());
        // Fails when nobody follows.
        let _ = self.follow.send(told);
    }
}

impl Audience for Followers {
    fn flushed(&mut self, events: u64, violations: u64) {
        let (events_before, violations_before) = self.read_before;
        self.state.has_recorded(events_before + events, violations_before + violations);
    }

    fn event(&mut self, event: &Event) {
        let told = matches!(
            event.body,
            Body::Alert(_) | Body::Grant { .. } | Body::Agent { .. } | Body::Loss(_)
        );
        match self.instances.get_mut(&event.instance) {
            Some(followed) => {
                followed.events += 1;
                followed.alerts += u64::from(event.is_alert());
                followed.series.event(event);
                followed.summary.event(event);
            }
            None => self.metrics.event(event),
        }
        if told {
            self.tell(event);
        }
    }
}
