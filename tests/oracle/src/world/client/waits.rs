//! What a client waits for before it goes on.

use super::{Client, Ending, FIN_TIMEOUT, Settings, State};

impl Client {
    /// Whether it may ask before it is answered. Not behind an upload in chunks: over a hole nobody knows where that ends.
    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        let chunked = self.waiting.back().is_some_and(|waiting| waiting.request.chunk().is_some());
        self.waiting.len() < settings.pipeline as usize && !chunked
    }

    /// Whether it waits for the server to end the connection, as it has asked.
    pub(super) fn awaits_end(&self, settings: &Settings) -> bool {
        let open = self.tcp.as_ref().is_some_and(|tcp| tcp.state == State::Open && !tcp.closing());
        let full = settings.client_closes > 0 && self.on_connection >= settings.client_closes;
        open && full && self.ending == Ending::Asked && self.waiting.is_empty() && self.later.is_empty()
    }

    /// When it waits no more for the server's FIN.
    pub(super) fn gives_up(&self) -> Option<u64> {
        let waits = self.tcp.as_ref().is_some_and(|tcp| tcp.state == State::Open && tcp.closing());
        (waits && self.waiting.is_empty() && self.later.is_empty()).then_some(self.next_at + FIN_TIMEOUT)
    }
}
