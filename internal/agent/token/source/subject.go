// Which identity a token is for.

package source

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/reason"
)

// Subject is the identity that a token is for, as far as it can be read. It has several IDs of a
// kind if the token and the reply around it differ.
type Subject struct {
	clientIDs   []string
	resourceIDs []string // the claim xms_mirid, which only managed identities have
}

// SubjectOf reads the reply and the claims of its token.
func SubjectOf(t *token.Token) Subject {
	var access string
	_ = json.Unmarshal(t.Fields["access_token"], &access) // ParseReply has read it before
	var c struct {
		AppID      stringOrList `json:"appid"` // version 1.0
		AZP        stringOrList `json:"azp"`   // version 2.0
		ResourceID stringOrList `json:"xms_mirid"`
	}
	decodeClaims(access, &c)
	var replied stringOrList
	_ = json.Unmarshal(t.Fields["client_id"], &replied)
	isEmpty := func(s string) bool { return s == "" }
	return Subject{
		clientIDs:   slices.DeleteFunc(slices.Concat(c.AppID, c.AZP, replied), isEmpty),
		resourceIDs: slices.DeleteFunc(slices.Clone(c.ResourceID), isEmpty),
	}
}

// Mismatch returns how the subject differs from the spec, or nil. An encrypted token does not name
// its subject and matches: it was requested by the identity's resource ID or client ID.
func (s Subject) Mismatch(spec v1.AzureIdentitySpec) error {
	for _, id := range s.clientIDs {
		if spec.ClientID != "" && !ascii.EqualFold(id, spec.ClientID) {
			return fmt.Errorf("the token's client ID is %s, spec.clientID is %s", Brief(id), Brief(spec.ClientID))
		}
	}
	for _, id := range s.resourceIDs {
		if want := ResourceID(&spec); want != "" && !sameResource(id, want) {
			return fmt.Errorf("the token's resource ID is %s, spec.resourceID is %s",
				Clip(id, 300), Clip(want, 300))
		}
	}
	return nil
}

// sameResource compares loosely: Azure may return letters outside ASCII in another case than the
// one it was asked with.
func sameResource(a, b string) bool {
	return ascii.Loose(strings.TrimRight(a, "/")) == ascii.Loose(strings.TrimRight(b, "/"))
}

// ResourceID returns the identity's resource ID. In managed mode v1.8.17 ignored that field beside
// a client ID, so what cannot be a resource ID counts as absent.
func ResourceID(spec *v1.AzureIdentitySpec) string {
	if !strings.HasPrefix(spec.ResourceID, "/") {
		return ""
	}
	return spec.ResourceID
}

// systemAssigned reports whether the token is for a machine's own identity, whose resource is the
// machine.
func (s Subject) systemAssigned() bool {
	return slices.ContainsFunc(s.resourceIDs, func(id string) bool {
		return !strings.Contains(ascii.ToLower(id), "/providers/microsoft.managedidentity/userassignedidentities/")
	})
}

// ClusterEvidence returns a function that says why the token is one of the cluster's own
// identities, or "". It runs for every answer: more of the cluster's identities may become known
// later. known gets IDs in lower case.
func (s Subject) ClusterEvidence(
	spec *v1.AzureIdentitySpec, known func(clientID, resourceID string) bool,
) func() string {
	systemAssigned := s.systemAssigned()
	specClient, specResource := ascii.ToLower(spec.ClientID), ascii.ToLower(ResourceID(spec))
	clientIDs, resourceIDs := lower(s.clientIDs), lower(s.resourceIDs)
	return func() string {
		switch {
		case systemAssigned:
			return "the token is one of the machine's system-assigned identity"
		case known(specClient, specResource):
			return "the spec names an identity of the cluster"
		}
		for _, id := range clientIDs {
			if known(id, "") {
				return "the token's client ID is that of an identity of the cluster"
			}
		}
		for _, id := range resourceIDs {
			if known("", id) {
				return "the token's resource ID is that of an identity of the cluster"
			}
		}
		return ""
	}
}

func lower(ids []string) []string {
	lowered := make([]string, len(ids))
	for i, id := range ids {
		lowered[i] = ascii.ToLower(id)
	}
	return lowered
}

// OtherIdentity is the failure of a token that is for another identity than the spec's. It is
// final: the spec is wrong.
func OtherIdentity(id *v1.AzureIdentity, authority string, mismatch error) *reason.Refusal {
	remedy := "correct spec.clientID or spec.adEndpoint"
	switch spec := id.Spec; {
	case spec.Type == v1.UserAssignedMSI && spec.ResourceID != "":
		remedy = "spec.clientID and spec.resourceID must be those of one identity: " +
			"az identity show --ids <resourceID> --query clientId prints the client ID, or leave spec.clientID out"
	case spec.Type == v1.UserAssignedMSI:
		remedy = "set spec.resourceID to the identity's resource ID"
	}
	return &reason.Refusal{
		Reason: reason.OtherIdentity,
		Cause:  mismatch,
		Message: fmt.Sprintf("AzureIdentity %s cannot be used: %s returned a token of another identity "+
			"than the one in its spec: %s", Name(id), authority, remedy),
	}
}
