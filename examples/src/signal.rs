//! When somebody wants the program to end.

/// Ends at Ctrl-C, and on Unix at SIGTERM too, which is how supervisors ask.
///
/// # Panics
/// When the system refuses to tell of signals.
pub async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.expect("Ctrl-C can be caught");
}
