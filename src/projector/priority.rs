//! Where both cores are short, what answers goes before what projects.

use std::panic::resume_unwind;

/// Does the work, and if it gives way, with what threads that answer leave of the cores. By a
/// thread of its own, since none may raise its priority again.
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

/// To the policy for what runs when nothing else does. The lowest priority of the usual policy is
/// not enough: whoever has been given a core there keeps it for some milliseconds while others
/// wake up, and a core that is busy at a low priority is not taken for a free one.
#[cfg(target_os = "linux")]
fn lower() {
    const ITSELF: libc::pid_t = 0;
    let none = libc::sched_param { sched_priority: 0 };
    // Safety: the parameters live during the call. Anybody may ask for less.
    if unsafe { libc::sched_setscheduler(ITSELF, libc::SCHED_IDLE, &none) } != 0 {
        let error = std::io::Error::last_os_error();
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
    fn policy() -> i32 {
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_work_has_the_low_priority() {
        let before = policy();
        let (mut seen, borrowed) = (Vec::new(), 7);
        for gives_way in [true, false] {
            let returned = work(gives_way, || {
                seen.push(policy());
                borrowed + 1
            });
            assert_eq!((returned, policy()), (8, before));
        }
        assert_eq!(seen, [libc::SCHED_IDLE, before]);
    }

    #[test]
    #[should_panic(expected = "out of the work")]
    fn a_panic_comes_through() {
        work(true, || panic!("out of the work"));
    }
}
