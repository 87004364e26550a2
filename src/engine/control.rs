//! The HTTP endpoint of a running process: metrics and health for everyone on its address, control for those who
//! hold the token that the process leaves beside its state (readable by its owner only).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::status::{SharedStatus, Status};
use super::{
    Command, Corrected, CorrectionRequest, DeliveriesEdited, DeliveriesRequest, Input, ListEdited, ListRequest,
    Replayed,
};

/// What a command needs to speak to the running process; in `control.json` of the data folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControlFile {
    pub address: SocketAddr,
    pub token: String,
}

impl ControlFile {
    pub fn path(data: &Path) -> PathBuf {
        data.join("control.json")
    }

    pub fn write(&self, data: &Path) -> std::io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(data)?;
        let path = Self::path(data);
        // Removed first, so that the mode below holds whatever was there.
        let _ = std::fs::remove_file(&path);
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())
    }

    pub fn read(data: &Path) -> Option<ControlFile> {
        serde_json::from_slice(&std::fs::read(Self::path(data)).ok()?).ok()
    }
}

/// A token that cannot be guessed.
pub fn new_token() -> std::io::Result<String> {
    let mut bytes = [0u8; 24];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Control {
    token: String,
    status: SharedStatus,
    engine: mpsc::Sender<Input>,
    metrics: PrometheusHandle,
}

/// Serves until the process ends.
pub async fn serve(
    listener: TcpListener,
    token: String,
    status: SharedStatus,
    engine: mpsc::Sender<Input>,
    metrics: PrometheusHandle,
) -> std::io::Result<()> {
    let control = Arc::new(Control { token, status, engine, metrics });
    let router = Router::new()
        .route("/metrics", get(async |State(control): State<Arc<Control>>| control.metrics.render()))
        .route("/healthz", get(health))
        .route("/control/status", get(read_status))
        .route("/control/replay", post(replay))
        .route("/control/correct", post(correct))
        .route("/control/list", post(edit_list))
        .route("/control/deliveries", post(edit_deliveries))
        .with_state(control);
    axum::serve(listener, router).await
}

/// 200 while batches can be applied, 503 while the state is being loaded. A dead sink or source does not make the
/// process unhealthy: it keeps everything and goes on by itself.
async fn health(State(control): State<Arc<Control>>) -> (StatusCode, &'static str) {
    if control.status.read().ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn read_status(State(control): State<Arc<Control>>, headers: HeaderMap) -> Response {
    if !control.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Json::<Status>(control.status.read()).into_response()
}

async fn replay(State(control): State<Arc<Control>>, headers: HeaderMap) -> Response {
    if !control.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (answer, replayed) = oneshot::channel();
    if control.engine.send(Input::Command(Command::Replay { answer })).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match replayed.await {
        Ok(replayed) => Json::<Replayed>(replayed).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Answers when the correction and what it rebuilds are durable.
async fn correct(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(request): Json<CorrectionRequest>,
) -> Response {
    if !control.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (answer, corrected) = oneshot::channel();
    if control.engine.send(Input::Command(Command::Correct { request, answer })).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match corrected.await {
        Ok(corrected) => Json::<Corrected>(corrected).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Answers when the changed list and who entered and left for it are durable.
async fn edit_list(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(request): Json<ListRequest>,
) -> Response {
    if !control.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (answer, edited) = oneshot::channel();
    if control.engine.send(Input::Command(Command::EditList { request, answer })).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match edited.await {
        Ok(edited) => Json::<ListEdited>(edited).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Answers when it is durable.
async fn edit_deliveries(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(request): Json<DeliveriesRequest>,
) -> Response {
    if !control.allows(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (answer, edited) = oneshot::channel();
    if control.engine.send(Input::Command(Command::EditDeliveries { request, answer })).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match edited.await {
        Ok(edited) => Json::<DeliveriesEdited>(edited).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl Control {
    fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get("authorization").map(|value| value.as_bytes());
        let wanted = format!("Bearer {}", self.token);
        // Compared in full, so that the time taken says nothing of where they differ.
        given.is_some_and(|given| {
            given.len() == wanted.len() && given.iter().zip(wanted.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
        })
    }
}
