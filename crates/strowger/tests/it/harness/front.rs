//! The address that a name leads to: connections go to whichever router is there.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::spawn;

/// A port that leads to a router. While it leads to none, clients wait.
pub struct Front {
    pub port: u16,
    to: watch::Sender<Option<SocketAddr>>,
}

impl Front {
    pub async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, testkit::free_port())).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, goal) = watch::channel(None);
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                spawn(relay(client, goal.clone()));
            }
        };
        spawn(accept);
        Self { port, to }
    }

    /// Where it leads from now on.
    pub fn lead(&self, to: Option<SocketAddr>) {
        let local = |addr: SocketAddr| ([127, 0, 0, 1], addr.port()).into();
        self.to.send_replace(to.map(local));
    }
}

async fn relay(mut client: TcpStream, mut goal: watch::Receiver<Option<SocketAddr>>) {
    let Ok(goal) = goal.wait_for(Option::is_some).await.map(|goal| *goal) else { return };
    let Ok(mut router) = TcpStream::connect(goal.unwrap()).await else { return };
    let _ = copy_bidirectional(&mut client, &mut router).await;
}
