//! The one table of what can become of a packet: number, name, action, and what an operator reads.
//!
//! A number names the same thing for ever: one that is retired is never used again.

/// What the entry point does with a packet, beside what [`crate::flow::Step`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Sent on, or turned into another packet, as the step says.
    Emit,
    /// Into the TAP, untouched.
    Hold,
    /// Given up.
    Drop,
    /// Left to the kernel.
    Pass,
}

macro_rules! verdicts {
    ($($number:literal $name:ident $action:ident $help:literal)*) => {
        /// What became of a packet. Each is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Verdict { $(#[doc = $help] $name = $number,)* }

        impl Verdict {
            /// Every verdict, in the order of the table.
            pub const ALL: &[Verdict] = &[$(Verdict::$name,)*];

            /// The verdict of a number.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Verdict> {
                match number { $($number => Some(Verdict::$name),)* _ => None }
            }

            /// The name, as in metrics and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$name => stringify!($name),)* }
            }

            /// What an operator reads.
            pub const fn help(self) -> &'static str {
                match self { $(Verdict::$name => $help,)* }
            }

            /// What is done with the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Verdict::$name => Action::$action,)* }
            }
        }
    };
}

verdicts! {
     0 Forwarded          Emit "sent on to the leg, or to the client, that it is for"
     1 Mirrored           Emit "a client's segment, sent to both legs"
     2 Absorbed           Emit "bytes of the leg without authority: acknowledged, and seen by nobody"
     3 AbsorbedAck        Drop "a leg's acknowledgement without news for the client"
     4 Raised             Emit "a leg's segment raised what the client may know: turned into an acknowledgement for it"
     5 TurnedBack         Emit "a stale client segment, answered with the current acknowledgement"
     6 Probe              Emit "a keep-alive or window probe, sent on"
     7 HeldFrozen         Hold "a write that began under a freeze: held until it is let go"
     8 HeldUnsettled      Hold "a request that must change the authority of a flow that isn't settled yet: held"
     9 HeldBehind         Hold "behind a held segment of the same flow: held, so that the order stays"
    10 HeldMoved          Hold "behind a read that another side was asked and hasn't answered yet: held"
    11 HeldCapped         Hold "the leg has had as many requests as its server answers: held until it is dialled anew"
    12 DeferredHoldFull   Drop "could not be held; the client's TCP sends it again"
    13 DeferredOrder      Drop "out of order where a request may begin; the client's TCP sends it again"
    14 DeferredRaced      Drop "another packet of the flow came first; TCP sends it again"
    15 SynNew             Emit "a new connection: its SYN goes to the legs"
    16 SynAgain           Emit "a SYN sent again"
    17 SynAckShown        Emit "the authority's SYN-ACK, for the client"
    18 SynAckAbsorbed     Emit "another leg's SYN-ACK: it becomes the ACK"
    19 Dialled            Emit "a leg is dialled under an open connection"
    20 FinAbsorbed        Emit "the end of a leg that isn't the connection's end: acknowledged"
    21 Reset              Emit "a reset that ends the connection, sent on"
    22 LegLost            Drop "a leg ended or fell silent; the connection goes on"
    23 FailedMidAnswer    Emit "a leg ended in the middle of an answer that the client was reading: reset"
    24 Refused            Drop "a leg's server refused the connection"
    25 ResetUnknownLeg    Emit "a server's segment for a leg that is no more: reset"
    26 ResetStale         Emit "a segment of a connection that has ended, or a client that is silent since: reset"
    27 OutOfWindow        Drop "a segment or reset whose numbers fit no state of the flow: ignored"
    28 BeyondHead         Drop "behind an answer's head that hasn't been seen whole: the server sends it again"
    29 AskedAgain         Emit "a read whose leg was lost before it answered: asked of the other one"
    30 NoService          Pass "not for a service: the kernel's own"
    31 NotIpv4            Pass "neither IPv4 nor our TCP in IPv6, or a VLAN's frame at the device below: the kernel's own"
    32 NotTcp             Pass "neither TCP nor an ICMP error about a flow's packet: the kernel's own"
    33 Fragment           Pass "an IP fragment that is not for a service that it could be matched to: the kernel's own"
    34 FragmentDropped    Drop "an IP fragment towards a service's address"
    35 Malformed          Drop "lengths that contradict each other: never half a packet"
    36 IpOptions          Pass "IP options: the kernel's own"
    37 NoFlow             Emit "a segment to a service without a connection: reset"
    38 TableFull          Drop "no free slot for a new connection"
    39 PortsFull          Drop "no free port for a leg of a new connection"
    40 PortCollision      Drop "the leg's addresses are taken; the client's TCP sends it again"
    41 StaleSlot          Drop "the flow was freed while the packet was on its way"
    42 EmitFailed         Drop "the kernel refused to send a copy; the bytes stay owed"
    43 NoLeg              Drop "no leg is left that could take it"
    44 SynWithoutOptions  Drop "a SYN whose options contradict its length"
    45 HeldDialling       Emit "sent on; a copy is held for the leg that is being dialled"
    46 KeptUnsettled      Emit "a read that would have moved, had its flow been settled: answered by the same side"
    47 Runt               Pass "too short for the headers that it announces: the kernel's own"
    48 NoneDue            Drop "a packet to be made, which isn't needed any more"
    49 HandoverFailed     Drop "decided at XDP, and could not be handed over to TC; the bytes stay owed"
    50 PartForwarded      Emit "what was sent on before, of a segment whose rest must wait: sent on; a copy of it all is held"
    51 IcmpTranslated     Emit "an ICMP error about a packet of a flow: sent on to the end that sent it, in its numbers"
    52 IcmpAbsorbed       Drop "an ICMP error about a packet that isn't under way, or of the path of a leg without authority"
    53 SynAckWithoutSack  Emit "another leg's SYN-ACK, without SACK though the client permits it: it becomes the ACK"
    54 HeldOrder          Hold "a write that must wait for another connection's on the other side (`order`): held"
    55 MirroredAhead      Emit "a read, sent to both legs: the one that will answer it is behind, and heard from that answer on"
    56 TailForwarded      Emit "the end of a segment whose beginning nobody hears: an answer that came with earlier ones"
    57 BrokenOff          Emit "a move waited for a request that its client hadn't sent whole (`unsettled = \"reset\"`): reset"
    58 AckedLate          Emit "a leg's bytes that nobody hears, acknowledged by the sweep: no packet of the client's did"
    59 Older              Pass "a segment to the primary's own address, of a connection older than the datapath: the kernel's own"
    60 HalfOpen           Emit "nobody has finished opening the connection, and there is little room for others: ended"
    61 DatagramForwarded  Emit "a client's datagram, sent to the one side that is in sync"
    62 DatagramMirrored   Emit "a client's datagram, sent to both sides"
    63 DatagramUnmirrored Emit "a client's datagram, sent to the side that is heard alone: no free port towards the other"
    64 DatagramPortsFull  Drop "a client's datagram, without a free port towards the side that is heard: the client asks again"
    65 AnswerShown        Emit "a server's datagram, for the client that asked"
    66 AnswerAbsorbed     Drop "a server's datagram that nobody hears: of the side without a say in it"
    67 AnswerStale        Drop "a server's datagram that is no answer to what it was asked, or not any more"
    68 Ipv6Options        Pass "IPv6's hop-by-hop or destination options, to an address of the policy's: the kernel's own"
    69 Ipv6Routing        Pass "IPv6's routing header, to an address of the policy's: the kernel's own"
    70 KeptOrder          Emit "a read that would have moved beside another connection's write that the other side owes (`order`)"
}

/// Size of the counters' array: room for new ones.
pub const COUNTERS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit() {
        for (i, a) in Verdict::ALL.iter().enumerate() {
            assert!((*a as usize) < COUNTERS);
            for b in &Verdict::ALL[i + 1..] {
                assert_ne!(*a as u8, *b as u8);
                assert_ne!(a.name(), b.name());
            }
        }
    }
}
