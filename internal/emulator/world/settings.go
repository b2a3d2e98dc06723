// The emulator's settings. The defaults are the values of the real Azure.

package world

import "time"

// Settings configure the emulator. Every field has a default (DefaultSettings); a file contains
// only the differences.
type Settings struct {
	// Authorization on ARM: "any" lets every valid token do everything, "roles" applies the role
	// assignments.
	Authorization string        `json:"authorization"`
	ARM           ARMSettings   `json:"arm"`
	Entra         EntraSettings `json:"entra"`
	IMDS          IMDSSettings  `json:"imds"`
	Limits        Limits        `json:"limits"`
}

// ARMSettings configure Azure Resource Manager.
type ARMSettings struct {
	// UpdateDuration is how long a write to a VM or scale set takes. Azure: 10-20 s for a VM, 40-60
	// s for a scale set.
	UpdateDuration Duration `json:"updateDuration"`
	// IMDSDelay is the time from the end of the write until IMDS reflects it.
	IMDSDelay Duration `json:"imdsDelay"`
	// RetryAfter is the Retry-After, in seconds, of responses about a running operation; 0 omits the
	// header.
	RetryAfter int `json:"retryAfter"`
	// MaxIdentities is how many user-assigned identities one request may name.
	MaxIdentities int `json:"maxIdentities"`
	// StaleIDs makes machines show an identity that was deleted (and perhaps recreated) while assigned
	// with its old IDs. Otherwise they show it without IDs. Both have been observed on Azure.
	StaleIDs bool `json:"staleIDs"`
	// RefuseDeleted refuses writes that leave a deleted identity on a machine. As observed on Azure,
	// the error names the identity although the request did not.
	RefuseDeleted bool `json:"refuseDeleted"`
	// Latency is added to every request.
	Latency Duration `json:"latency"`
}

// EntraSettings configure Entra ID.
type EntraSettings struct {
	// TokenLifetime is the lifetime of tokens for applications. Azure: a random 60 to 90 minutes.
	TokenLifetime Duration `json:"tokenLifetime"`
	// Latency is added to every request.
	Latency Duration `json:"latency"`
}

// IMDSSettings configure the instance metadata service.
type IMDSSettings struct {
	// TokenLifetime is the lifetime of managed identity tokens. Azure: 24 hours, fixed.
	TokenLifetime Duration `json:"tokenLifetime"`
	// CacheTokens returns the same token again until half of its lifetime is over, as Azure does.
	CacheTokens bool `json:"cacheTokens"`
	// DefaultMachine is the name of the VM, or of the scale set (its first instance), that loopback
	// callers are mapped to. If it is empty, they map to no machine.
	DefaultMachine string `json:"defaultMachine"`
	// Latency is added to every request.
	Latency Duration `json:"latency"`
}

// Limits are Azure's rate limits. They are on by default, so that tests with the emulator find
// clients that do not respect them.
type Limits struct {
	Enabled bool `json:"enabled"`
	// ScaleSetWrites and MachineWrites count per scale set and per VM; Reads and Writes per
	// subscription and principal.
	ScaleSetWrites Bucket `json:"scaleSetWrites"`
	MachineWrites  Bucket `json:"machineWrites"`
	Reads          Bucket `json:"reads"`
	Writes         Bucket `json:"writes"`
	// MachineReads counts the reads of one VM or scale set, OperationReads the polls of its
	// operations. Azure: 36 and 12 a minute, 45 and 15 a minute. The default is no limit: with updates
	// of 2 s instead of a minute, even a well-behaved client exceeds these rates.
	MachineReads   Bucket `json:"machineReads"`
	OperationReads Bucket `json:"operationReads"`
	// Metadata and Identity count per VM: all IMDS requests, and token requests.
	Metadata Bucket `json:"metadata"`
	Identity Bucket `json:"identity"`
	// IdentityAtOnce is how many token requests of one VM may be in progress; 0 means no limit.
	IdentityAtOnce int `json:"identityAtOnce"`
}

// Bucket is a token bucket with Size tokens that gains PerMinute every minute. Size 0 means no
// limit.
type Bucket struct {
	Size      int `json:"size"`
	PerMinute int `json:"perMinute"`
}

// valid reports whether the bucket has no limit or can be refilled.
func (b Bucket) valid() bool {
	return b.Size >= 0 && b.PerMinute >= 0 && (b.Size == 0 || b.PerMinute > 0)
}

// DefaultSettings returns the default settings.
//
// The limits are Microsoft's documented figures: compute writes 12 and 4 a minute per VMSS or VM,
// ARM reads 250 and 25 a second, writes 200 and 10 a second, IMDS 5 a second in general, its token
// path 20 a second and 5 at once. An update takes 2 s instead of Azure's 10 to 60, so that
// experiments do not take long.
func DefaultSettings() Settings {
	return Settings{
		Authorization: AuthorizeAny,
		ARM: ARMSettings{
			UpdateDuration: Duration(2 * time.Second),
			RetryAfter:     10,
			MaxIdentities:  150,
		},
		Entra: EntraSettings{TokenLifetime: Duration(75 * time.Minute)},
		IMDS:  IMDSSettings{TokenLifetime: Duration(24 * time.Hour), CacheTokens: true},
		Limits: Limits{
			Enabled:        true,
			ScaleSetWrites: Bucket{Size: 12, PerMinute: 4},
			MachineWrites:  Bucket{Size: 12, PerMinute: 4},
			Reads:          Bucket{Size: 250, PerMinute: 25 * 60},
			Writes:         Bucket{Size: 200, PerMinute: 10 * 60},
			Metadata:       Bucket{Size: 5, PerMinute: 5 * 60},
			Identity:       Bucket{Size: 20, PerMinute: 20 * 60},
			IdentityAtOnce: 5,
		},
	}
}

// Values of Settings.Authorization.
const (
	AuthorizeAny   = "any"
	AuthorizeRoles = "roles"
)
