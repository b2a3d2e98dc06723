// The codes. A new reason gets the next free number of its group. No number is ever reused.

package reason

// The reasons; each is its code's number.
const (
	// The request and its caller.
	HeaderMissing    Reason = 101
	Forwarded        Reason = 102
	PathUnknown      Reason = 103
	MethodNotAllowed Reason = 104
	BodyTooLarge     Reason = 105
	BadQuery         Reason = 106
	BadResource      Reason = 107
	PodNotNamed      Reason = 108
	HostTCPOff       Reason = 109
	NotLoopback      Reason = 110
	FromKubelet      Reason = 111
	CallerUnknown    Reason = 121
	CallerAmbiguous  Reason = 122
	CallerMoved      Reason = 123
	CallerGone       Reason = 124
	ClientGone       Reason = 125
	PodUnknown       Reason = 126
	CallerOutside    Reason = 127
	CallerNotProven  Reason = 128
	InstanceBlocked  Reason = 131
	AttestedBlocked  Reason = 132
	UserDataBlocked  Reason = 133

	// Labels, bindings and identities.
	NoLabel            Reason = 201
	NoBinding          Reason = 202
	NoSelector         Reason = 203
	IdentityMissing    Reason = 204
	OtherNamespace     Reason = 205
	NamespacedIdentity Reason = 206
	IdentityBroken     Reason = 207
	NotShared          Reason = 208
	NoMatch            Reason = 209
	TooManyIdentities  Reason = 210
	HostNetwork        Reason = 211
	TypeNotSupported   Reason = 212

	// The policy of the cluster's owner.
	UseForbidden       Reason = 301
	AudienceForbidden  Reason = 302
	ExceptionForbidden Reason = 303
	ClusterIdentity    Reason = 304
	ClusterToken       Reason = 305
	WouldBeRefused     Reason = 306
	Excepted           Reason = 307

	// Assigning the identity to the node on Azure.
	IdentityRefused        Reason = 401
	IdentityForbidden      Reason = 402
	ClientIDMismatch       Reason = 403
	LedgerFull             Reason = 404
	GroupForbidden         Reason = 411
	GroupLocked            Reason = 412
	GroupMissing           Reason = 413
	GroupBlocked           Reason = 414
	NodeNotOnAzure         Reason = 415
	UpdateFailing          Reason = 416
	NotPreassigned         Reason = 421
	BrokerNamespaceMissing Reason = 422
	BrokerRefused          Reason = 423
	NotAssigned            Reason = 431
	AssigningRetry         Reason = 432
	Quarantined            Reason = 433

	// The source of tokens.
	SourceFailed      Reason = 501
	ReplyUnusable     Reason = 503
	TokenUnreadable   Reason = 504
	IMDSTrouble       Reason = 511
	IMDSBusy          Reason = 512
	IMDSThrottled     Reason = 513
	NotOnNode         Reason = 514
	IMDSRefused       Reason = 515
	UpstreamFailed    Reason = 516
	UpstreamThrottled Reason = 517
	EntraTrouble      Reason = 521
	EntraBusy         Reason = 522
	EntraThrottled    Reason = 523
	EntraRefused      Reason = 524
	EntraResource     Reason = 525
	ClockWrong        Reason = 526
	SecretMissing     Reason = 531
	SecretForbidden   Reason = 532
	SecretUnusable    Reason = 533
	APIServerTrouble  Reason = 534
	KeyBusy           Reason = 535
	BrokerMissing     Reason = 541
	BrokerForbidden   Reason = 542
	OtherIdentity     Reason = 551

	// The node agent itself.
	NotReady       Reason = 601
	Stopping       Reason = 602
	Unsteady       Reason = 603
	TooManyWaiting Reason = 604
	Busy           Reason = 605
)
