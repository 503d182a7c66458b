//! How much callers of the control socket may take of the agent: connections, time and memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Body;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time::timeout};

use super::request::{Caller, Refusal};

/// Connections at one time.
pub const CONNECTIONS_MAX: usize = 1024;
/// Those of one user; root's are not counted.
const OF_USER_MAX: usize = 512;
/// Those of all users but root, so that root always finds one.
const OF_USERS_MAX: usize = 768;
/// How long a caller may take to say what it wants.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request: arguments and environment of a process are bounded by the kernel to 2 MiB,
/// and grow in JSON.
const REQUEST_MAX: usize = 8 << 20;
/// Bytes up to which a request needs no place of its own.
const SMALL: usize = 64 << 10;
/// Requests beyond that at one time.
const LARGE_MAX: usize = 8;

/// Places of requests that are large.
static LARGE: Semaphore = Semaphore::const_new(LARGE_MAX);

/// The connections of users.
#[derive(Clone, Debug, Default)]
pub struct Guests(Arc<Mutex<HashMap<u32, usize>>>);

/// A user's connection; it ends when this is dropped.
#[derive(Debug)]
pub struct Guest {
    all: Guests,
    uid: u32,
}

impl Guests {
    /// A place for another connection, `None` when the user, or all users together, have enough.
    pub fn enter(&self, caller: Caller) -> Option<Guest> {
        let mut users = self.lock();
        // Root's place is never in another's way.
        if !caller.is_root() {
            let all: usize = users.values().sum();
            let own = users.get(&caller.uid).copied().unwrap_or_default();
            if own >= OF_USER_MAX || all >= OF_USERS_MAX {
                return None;
            }
            users.insert(caller.uid, own + 1);
        }
        Some(Guest { all: self.clone(), uid: caller.uid })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut users = self.all.lock();
        if let Some(own) = users.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// The `what` that a request is about.
///
/// # Errors
/// When it is something else, too large, or does not come in time.
pub async fn read<T: DeserializeOwned>(body: Body, what: &str) -> Result<Box<T>, Refusal> {
    let body = timeout(PATIENCE, collect(body)).await.unwrap_or_else(|_| {
        Err(Refusal::Wrong(format!("the request did not come within {PATIENCE:?}")))
    })?;
    let read = serde_json::from_slice(&body);
    read.map(Box::new).map_err(|error| Refusal::Wrong(format!("the request is no {what}: {error}")))
}

async fn collect(mut body: Body) -> Result<Vec<u8>, Refusal> {
    let (mut bytes, mut place) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::Wrong(format!("the request broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > REQUEST_MAX {
            let most = REQUEST_MAX >> 20;
            return Err(Refusal::Wrong(format!("the request is larger than {most} MiB")));
        }
        if length > SMALL && place.is_none() {
            place = LARGE.acquire().await.ok();
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const ROOT: Caller = Caller { pid: 1, uid: 0 };

    fn user(uid: u32) -> Caller {
        Caller { pid: 1, uid }
    }

    #[test]
    fn one_user_leaves_room_for_others_and_all_leave_room_for_root() {
        let guests = Guests::default();
        let enter = |uid, count: usize| -> Vec<Guest> {
            (0..count).filter_map(|_| guests.enter(user(uid))).collect()
        };
        let first = enter(1000, 10_000);
        assert_eq!(first.len(), OF_USER_MAX);
        let second = enter(1001, 10_000);
        assert_eq!(second.len(), OF_USERS_MAX - OF_USER_MAX);
        assert!(guests.enter(ROOT).is_some());
        drop(first);
        assert_eq!(enter(1002, 10).len(), 10);
        drop(second);
        assert!(guests.lock().is_empty());
    }

    #[tokio::test]
    async fn what_is_too_large_or_nothing_of_the_kind_is_refused() {
        let refused = async |text: String| {
            let read = read::<HashMap<String, u32>>(Body::from(text), "map").await;
            read.map(drop).unwrap_err().to_string()
        };
        assert!(refused("x".repeat(REQUEST_MAX + 1)).await.contains("8 MiB"));
        assert!(refused("[".repeat(1 << 20)).await.contains("no map"));
        assert!(refused("{\"a\":-1}".to_owned()).await.contains("no map"));
        let fine = read::<HashMap<String, u32>>(Body::from("{\"a\":1}"), "map").await.unwrap();
        assert_eq!(fine["a"], 1);
    }

    #[tokio::test]
    async fn large_requests_have_few_places_and_small_ones_need_none() {
        let places = LARGE.acquire_many(LARGE_MAX as u32).await.unwrap();
        let large = format!("\"{}\"", "x".repeat(2 * SMALL));
        let waiting = timeout(SHORT, read::<String>(Body::from(large.clone()), "text")).await;
        assert!(waiting.is_err());
        read::<String>(Body::from("\"x\""), "text").await.unwrap();
        drop(places);
        read::<String>(Body::from(large), "text").await.unwrap();
    }
}
