//! Where both cores are short, what answers goes before what projects.

use std::panic::resume_unwind;

/// Does the work, and if it gives way, at the lowest priority: it gets what threads that
/// answer leave of the cores, and hardly more. By a thread of its own, since none may raise its priority again.
pub fn work<T: Send>(gives_way: bool, work: impl FnOnce() -> T + Send) -> T {
    if !gives_way {
        return work();
    }
    let (mut work, mut done) = (Some(work), None);
    std::thread::scope(|scope| {
        let lowered = || {
            lower();
            done = work.take().map(|work| work());
        };
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let thread = std::thread::Builder::new().name(name);
        if let Ok(thread) = thread.spawn_scoped(scope, lowered)
            && let Err(panic) = thread.join()
        {
            resume_unwind(panic);
        }
    });
    // Where there is no thread to be had, by this one.
    done.or_else(|| work.map(|work| work()))
        .expect("it is done by one of two")
}

#[cfg(target_os = "linux")]
fn lower() {
    /// The lowest there is.
    const NICE: i32 = 19;
    let itself = rustix::thread::gettid();
    // Anybody may ask for less.
    if let Err(error) = rustix::process::setpriority_process(Some(itself), NICE) {
        tracing::debug!(%error, "projecting keeps its priority");
    }
}

/// Elsewhere the priority is that of the whole process.
#[cfg(not(target_os = "linux"))]
fn lower() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    fn nice() -> i32 {
        rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_work_has_the_low_priority() {
        let before = nice();
        let (mut seen, borrowed) = (Vec::new(), 7);
        for gives_way in [true, false] {
            let returned = work(gives_way, || {
                seen.push(nice());
                borrowed + 1
            });
            assert_eq!((returned, nice()), (8, before));
        }
        assert_eq!(seen, [19, before]);
    }

    #[test]
    #[should_panic(expected = "out of the work")]
    fn a_panic_comes_through() {
        work(true, || panic!("out of the work"));
    }
}
