//! A mirror that is never late, and holds a request back all the same.

use super::*;
use mirror_common::flow::{Due, LossReason, on_sweep, sweep};

const UPLOAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 20000\r\n\r\n";

impl Scene {
    /// The body's next bytes come; the primary has acknowledged all of them, the shadow what came before.
    fn uploads(&mut self, sent: usize, bytes: usize) -> [Step; 2] {
        let mirrored = self.client(sent, &vec![b'x'; bytes], 0);
        self.server(Side::Primary, 0, &[], sent + bytes);
        [mirrored, self.server(Side::Shadow, 0, &[], sent)]
    }

    fn pressed_for(&mut self, budget_ms: u32) -> Vec<u32> {
        self.service.pressure_ms = budget_ms;
        is(&self.client(0, UPLOAD, 0), Verdict::Mirrored);
        let (mut sent, mut lost) = (UPLOAD.len(), Vec::new());
        for _ in 0..200 {
            for step in self.uploads(sent, 100) {
                if step.events & Step::LEG_LOST != 0 {
                    assert_eq!((step.side, step.reason), (1, LossReason::Pressed as u8));
                    lost.push(self.now_ms);
                }
            }
            sent += 100;
            self.now_ms += 100;
        }
        lost
    }
}

/// T3: it lags by a piece all the time, and acknowledges each within the stall budget.
#[test]
fn a_mirror_that_holds_an_upload_back_is_lost_when_its_budget_is_over() {
    let mut scene = Scene::established(true);
    let begun = scene.now_ms;
    let lost = scene.pressed_for(3_000);
    assert_eq!(lost.len(), 1);
    let after = lost[0] - begun;
    assert!((2_744..=3_356).contains(&after), "after {after} ms");
    assert!(!scene.word.member(Side::Shadow), "the rest of the request is the primary's alone");
    assert_eq!(Scene::established(true).pressed_for(0), [], "by policy it may");
}

/// One that has caught up in between begins anew, and so does the next request.
#[test]
fn a_mirror_that_catches_up_has_a_new_budget() {
    let mut scene = Scene::established(true);
    scene.service.pressure_ms = 1_000;
    scene.client(0, UPLOAD, 0);
    let mut sent = UPLOAD.len();
    for round in 0..40 {
        let steps = scene.uploads(sent, 100);
        assert!(steps.iter().all(|step| step.events & Step::LEG_LOST == 0), "round {round}");
        sent += 100;
        scene.now_ms += 200;
        if round % 3 == 2 {
            scene.server(Side::Shadow, 0, &[], sent);
        }
    }
    let mut scene = Scene::established(true);
    scene.service.pressure_ms = 1_000;
    for (at, round) in (0..40).map(|round| (round * WRITE.len(), round)) {
        is(&scene.client(at, WRITE, round * ANSWER.len()), Verdict::Mirrored);
        scene.server(Side::Primary, round * ANSWER.len(), ANSWER, at + WRITE.len());
        // The mirror is always one request behind: nobody waits for it.
        scene.now_ms += 100;
        let mut due = Due::Nothing;
        scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
        assert_eq!(due, Due::Nothing, "round {round}");
        scene.server(Side::Shadow, round * ANSWER.len(), ANSWER, at + WRITE.len());
    }
}
