//! etcd's own members.

use etcd_client::MemberAddOptions;

use crate::{Error, Keyspace};

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// etcd's id of it.
    pub id: u64,
    /// Its name; empty until it has started once.
    pub name: String,
    /// Where the other members find it.
    pub peer_urls: Vec<String>,
    /// Whether it only follows, without a vote.
    pub learner: bool,
}

impl Keyspace {
    /// All members.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let answer = self
            .repeated("listing", "the members", || {
                let mut cluster = self.client.cluster_client();
                async move { cluster.member_list().await }
            })
            .await?;
        let members = answer.members().iter().map(|member| Member {
            id: member.id(),
            name: member.name().into(),
            peer_urls: member.peer_urls().to_vec(),
            learner: member.is_learner(),
        });
        Ok(members.collect())
    }

    /// Adds a member without a vote.
    pub async fn add_learner(&self, peer_url: &str) -> Result<(), Error> {
        let mut cluster = self.client.cluster_client();
        let options = MemberAddOptions::new().with_is_learner();
        let call = cluster.member_add([peer_url.to_owned()], Some(options));
        self.once("adding the member", peer_url, call).await.map(drop)
    }

    /// Gives a member its vote; refused until it has all that the others have.
    pub async fn promote(&self, id: u64) -> Result<(), Error> {
        let mut cluster = self.client.cluster_client();
        let call = cluster.member_promote(id);
        self.once("promoting the member", &format!("{id:x}"), call).await.map(drop)
    }

    /// Removes a member.
    pub async fn remove_member(&self, id: u64) -> Result<(), Error> {
        let mut cluster = self.client.cluster_client();
        let call = cluster.member_remove(id);
        self.once("removing the member", &format!("{id:x}"), call).await.map(drop)
    }

    /// Tells the members where one of them is now.
    pub async fn move_member(&self, id: u64, peer_url: &str) -> Result<(), Error> {
        let mut cluster = self.client.cluster_client();
        let call = cluster.member_update(id, [peer_url.to_owned()]);
        self.once("moving the member", peer_url, call).await.map(drop)
    }
}
