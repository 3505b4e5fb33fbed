//! What clients cannot do to each other.

use std::{
    fs,
    future::ready,
    net::Ipv4Addr,
    process::Output,
    time::{Duration, Instant},
};

use testkit::{wait_until, wait_until_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use crate::world::World;

#[tokio::test]
async fn idle_sockets_keep_no_one_from_pushing_and_are_cut() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let began = Instant::now();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(("127.0.0.1", world.port)).await.unwrap());
    }
    let (ok, said) = world.push("app").await;
    assert!(ok, "{said}");
    for mut socket in idle {
        let mut said = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut said));
        let _ = end.await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    world.end().await;
}

#[tokio::test]
async fn a_push_that_sends_nothing_holds_no_lease_and_ends() {
    let mut world = World::new().await;
    world.idle_timeout = Duration::from_secs(3);
    world.restart_elsewhere().await;
    world.repository("app", "my-app").await;
    let mut ssh = tokio::process::Command::new("sh");
    let command =
        format!("exec {} git@127.0.0.1 \"git-receive-pack '/my-app.git'\"", world.ssh("me"));
    ssh.args(["-c", &command]).stdin(std::process::Stdio::piped()).kill_on_drop(true);
    ssh.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut idle = ssh.spawn().unwrap();
    let mut first = [0; 4];
    idle.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    assert_eq!(*world.fake().lease.lock().unwrap(), None);
    let (ok, said) = world.push("app").await;
    assert!(ok && !said.contains("is under way"), "{said}");
    let stdin = idle.stdin.take();
    let output = idle.wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(20), output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Nothing was sent for 3s"), "{said}");
    drop(stdin);
    world.end().await;
}

/// ssh that keeps its connection for the next push.
fn staying_ssh(world: &World) -> String {
    let control = world.path("control");
    let ssh = world.ssh("me");
    format!(
        "{ssh} -o ControlMaster=auto -o ControlPersist=yes -o ControlPath={}",
        control.display()
    )
}

/// Pushes over a connection that stays; whether it was taken, and what was said.
async fn push_and_stay(world: &World) -> (bool, String) {
    let mut git = world.git_command("me", "app", &["push", "flynn", "master"]);
    let output = git.env("GIT_SSH_COMMAND", staying_ssh(world)).output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_removed_key_does_nothing_more_on_an_open_connection() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let (ok, said) = push_and_stay(&world).await;
    assert!(ok, "{said}");
    world.fake().keys.lock().unwrap().clear();
    world.commit("app", "more", b"more").await;
    // Within seconds its last answer still counts.
    wait_until("the key is refused", async || {
        let (_, said) = push_and_stay(&world).await;
        if said.contains("Your SSH key was removed") { Ok(()) } else { Err(said) }
    })
    .await;
    let exit = format!("{} -O exit git@127.0.0.1", staying_ssh(&world));
    let mut ssh = tokio::process::Command::new("sh");
    assert!(ssh.args(["-c", &exit]).output().await.unwrap().status.success());
    world.end().await;
}

#[tokio::test]
async fn connections_of_one_key_leave_room_for_others() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let mut idle = tokio::process::Command::new("sh");
    idle.args(["-c", &format!("exec {} -N git@127.0.0.1", world.ssh("me"))]).kill_on_drop(true);
    let mut open: Vec<Child> = (0..33).map(|_| idle.spawn().unwrap()).collect();
    wait_until_for(Duration::from_secs(40), "one is turned away", || {
        let gone = open.iter_mut().any(|ssh| ssh.try_wait().unwrap().is_some());
        ready(gone.then_some(()).ok_or("all are there"))
    })
    .await;
    let push = async || world.git_as("me", "app", &["push", "flynn", "master"]).await;
    let (_, said) = push().await;
    assert!(said.contains("32 connections open here. End one"), "{said}");
    drop(open);
    world.commit("app", "more", b"more").await;
    wait_until("there is room", async || {
        let (ok, said) = push().await;
        if ok { Ok(()) } else { Err(said) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn an_agent_full_of_strangers_costs_the_controller_one_question() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let mut ssh = world.ssh("stranger-0");
    for n in 0..6 {
        world.user(&format!("stranger-{n}")).await;
        ssh = format!("{ssh} -i {}", world.path(&format!("stranger-{n}")).display());
    }
    let before = *world.fake().asked.lock().unwrap();
    let mut git = world.git_command("me", "app", &["push", "flynn", "master"]);
    let output = git.env("GIT_SSH_COMMAND", ssh).output().await.unwrap();
    assert!(!output.status.success());
    assert_eq!(*world.fake().asked.lock().unwrap() - before, 1);
    world.end().await;
}

#[tokio::test]
async fn a_socket_that_talks_nonsense_is_closed() {
    let world = World::new().await;
    let mut socket = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(15), socket.read_to_end(&mut said));
    let _ = end.await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_gitreceived_whose_key_is_refused_lets_nobody_in() {
    let mut world = World::new().await;
    world.lifetime.clone().drain(Duration::from_secs(10)).await.unwrap();
    world.shelf_key = "wrong".into();
    let mut asked = world.fake().asked_for_apps.subscribe();
    let before = *asked.borrow();
    world.begin("cache-2").await;
    // The controller is asked first: that it is asked again says that shelf has refused.
    asked.wait_for(|asked| *asked > before + 1).await.unwrap();
    let refused = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    world.end().await;
}

/// A push whose receiver holds.
async fn begin_push(world: &World) -> Child {
    world.repository("app", "my-app").await;
    fs::write(world.path("hold"), "").unwrap();
    let push = world.git_command("me", "app", &["push", "flynn", "master"]).spawn().unwrap();
    wait_until("the receiver runs", async || {
        world.receiver_pid().filter(|pid| pid.exists()).ok_or("not yet")
    })
    .await;
    push
}

async fn end_of(push: Child) -> (bool, String) {
    let output: Output = push.wait_with_output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_push_under_way_is_carried_through_and_nobody_new_is_let_in() {
    let world = World::new().await;
    let push = begin_push(&world).await;
    world.lifetime.end();
    let port = world.port;
    wait_until("nobody new is let in", async || {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(_) => Err("it still listens"),
            Err(_) => Ok(()),
        }
    })
    .await;
    fs::remove_file(world.path("hold")).unwrap();
    let (success, said) = end_of(push).await;
    assert!(success && said.contains("Application deployed"), "{said}");
    world.end().await;
}

#[tokio::test]
async fn a_push_that_does_not_end_in_time_is_told_to_come_back() {
    let world = World::new().await;
    let push = begin_push(&world).await;
    world.lifetime.end();
    world.running.as_ref().unwrap().end_pushes();
    let (success, said) = end_of(push).await;
    assert!(!success && said.contains("This server is restarting"), "{said}");
    assert_eq!(world.head(), None);
    world.end().await;
}

#[tokio::test]
async fn a_connection_that_is_kept_for_the_next_push_keeps_nobody_from_stopping() {
    let world = World::new().await;
    world.repository("app", "my-app").await;
    let (ok, said) = push_and_stay(&world).await;
    assert!(ok, "{said}");
    assert!(world.path("control").exists(), "the connection is kept");
    world.end().await;
}
