//! Heroku's codes for what becomes of requests: people know them and search for them.

/// Why a request ended in another way than its app wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Too many requests are under way to the app.
    H11,
    /// The backend did not begin to answer in time.
    H12,
    /// The backend closed the connection without an answer.
    H13,
    /// There is no backend.
    H14,
    /// Nothing moved for too long in the middle of an answer.
    H15,
    /// The backend's answer cannot be passed on.
    H17,
    /// The backend broke its answer off.
    H18,
    /// No connection was made in time.
    H19,
    /// Connections are refused.
    H21,
    /// The body of the request is not HTTP.
    H26,
    /// The client went before it had the whole answer, or had sent the whole request.
    H27,
    /// The rest of the request did not come in time.
    H28,
    /// The router itself has run out of something.
    H99,
}

impl Code {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 13] = [
        Self::H11,
        Self::H12,
        Self::H13,
        Self::H14,
        Self::H15,
        Self::H17,
        Self::H18,
        Self::H19,
        Self::H21,
        Self::H26,
        Self::H27,
        Self::H28,
        Self::H99,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H11 => "H11",
            Self::H12 => "H12",
            Self::H13 => "H13",
            Self::H14 => "H14",
            Self::H15 => "H15",
            Self::H17 => "H17",
            Self::H18 => "H18",
            Self::H19 => "H19",
            Self::H21 => "H21",
            Self::H26 => "H26",
            Self::H27 => "H27",
            Self::H28 => "H28",
            Self::H99 => "H99",
        }
    }
}
