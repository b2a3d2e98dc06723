// Whom a token is for, and whether that is the identity decided on.

package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/ascii"
)

// Reasons of refusals for what a token is.
const (
	// ReasonOtherIdentity refuses a token of another identity than the one decided on.
	ReasonOtherIdentity = "TokenOfAnotherIdentity"
	// ReasonClusterIdentity refuses an identity of the cluster itself.
	ReasonClusterIdentity = "ClusterIdentity"
)

// subject is the identity that a token is for, as far as it can be read. More than one value
// means that the token and the reply around it differ.
type subject struct {
	clientIDs   []string
	resourceIDs []string // the claim xms_mirid, which only managed identities have
}

// subjectOf reads the reply and the claims of its token. The token came from the source itself
// and its recipient checks the signature, so the claims are read without a check.
func subjectOf(t *Token) subject {
	var access string
	_ = json.Unmarshal(t.Fields["access_token"], &access) // parseReply has read it before
	var c struct {
		AppID      stringOrMany `json:"appid"` // version 1.0
		AZP        stringOrMany `json:"azp"`   // version 2.0
		ResourceID stringOrMany `json:"xms_mirid"`
	}
	decodeClaims(access, &c)
	var replied stringOrMany
	_ = json.Unmarshal(t.Fields["client_id"], &replied)
	isEmpty := func(s string) bool { return s == "" }
	return subject{
		clientIDs:   slices.DeleteFunc(slices.Concat(c.AppID, c.AZP, replied), isEmpty),
		resourceIDs: slices.DeleteFunc(slices.Clone(c.ResourceID), isEmpty),
	}
}

// mismatch returns how the subject differs from the spec, nil when it does not. A token that
// does not name its subject, because it is encrypted, matches: the source was asked for it by
// resource ID or client ID.
func (s subject) mismatch(spec v1.AzureIdentitySpec) error {
	for _, id := range s.clientIDs {
		if spec.ClientID != "" && !ascii.EqualFold(id, spec.ClientID) {
			return fmt.Errorf("the token's client ID is %s, spec.clientID is %s", brief(id), brief(spec.ClientID))
		}
	}
	for _, id := range s.resourceIDs {
		if want := resourceIDOf(&spec); want != "" && !sameResource(id, want) {
			return fmt.Errorf("the token's resource ID is %s, spec.resourceID is %s", clip(id, 300), clip(want, 300))
		}
	}
	return nil
}

// sameResource compares loosely: Azure, which was asked for one of the two, may spell its letters
// outside ASCII in another case.
func sameResource(a, b string) bool {
	return ascii.Loose(strings.TrimRight(a, "/")) == ascii.Loose(strings.TrimRight(b, "/"))
}

// systemAssigned reports whether the token is one of a machine's own identity: its resource is
// the machine.
func (s subject) systemAssigned() bool {
	return slices.ContainsFunc(s.resourceIDs, func(id string) bool {
		return !strings.Contains(ascii.ToLower(id), "/providers/microsoft.managedidentity/userassignedidentities/")
	})
}

// clusterCheck is what OfCluster asks about a token: the IDs of its AzureIdentity and its own, in
// lower case.
type clusterCheck struct {
	systemAssigned         bool
	specClient, specID     string
	clientIDs, resourceIDs []string
	known                  func(clientID, resourceID string) bool
}

// clusterCheck prepares the check, which is made for every answer.
func (s subject) clusterCheck(spec *v1.AzureIdentitySpec, known func(clientID, resourceID string) bool) *clusterCheck {
	return &clusterCheck{
		systemAssigned: s.systemAssigned(), known: known,
		specClient: ascii.ToLower(spec.ClientID), specID: ascii.ToLower(resourceIDOf(spec)),
		clientIDs: lower(s.clientIDs), resourceIDs: lower(s.resourceIDs),
	}
}

func lower(ids []string) []string {
	lowered := make([]string, len(ids))
	for i, id := range ids {
		lowered[i] = ascii.ToLower(id)
	}
	return lowered
}

// evidence returns what shows that the token is one of the cluster's own identities, "" for
// nothing.
func (c *clusterCheck) evidence() string {
	switch {
	case c.systemAssigned:
		return "the token is one of the machine's system-assigned identity"
	case c.known(c.specClient, c.specID):
		return "the spec names an identity of the cluster"
	}
	for _, id := range c.clientIDs {
		if c.known(id, "") {
			return "the token's client ID is that of an identity of the cluster"
		}
	}
	for _, id := range c.resourceIDs {
		if c.known("", id) {
			return "the token's resource ID is that of an identity of the cluster"
		}
	}
	return ""
}

// otherIdentity refuses a token of another identity. It is final: the spec is wrong.
func otherIdentity(id *v1.AzureIdentity, source string, mismatch error) *problem {
	remedy := "correct spec.clientID or spec.adEndpoint"
	switch spec := id.Spec; {
	case spec.Type == v1.UserAssignedMSI && spec.ResourceID != "":
		remedy = "spec.clientID and spec.resourceID must be those of one identity: " +
			"az identity show --ids <resourceID> --query clientId prints the client ID, or leave spec.clientID out"
	case spec.Type == v1.UserAssignedMSI:
		remedy = "set spec.resourceID to the identity's resource ID"
	}
	return &problem{Failure: Failure{
		Status: http.StatusForbidden, Code: "token_of_another_identity", Reason: ReasonOtherIdentity, Cause: mismatch,
		Message: fmt.Sprintf("AzureIdentity %s cannot be used: %s returned a token of another identity than the one in its spec: %s",
			name(id), source, remedy),
	}}
}

// RefuseCluster returns the failure of a token that is OfCluster, for a pod that the policy does
// not name the identity for.
func RefuseCluster(t *Token, id *v1.AzureIdentity) *Failure {
	return &Failure{
		Status: http.StatusForbidden, Code: "cluster_identity", Reason: ReasonClusterIdentity, Cause: errors.New(t.OfCluster()),
		Message: fmt.Sprintf("AzureIdentity %s cannot be used: it names an identity of the cluster itself, which pods do not get: "+
			"create a user-assigned identity for the application, have this one named for namespace %s in AzureIdentityPolicy %s, "+
			"or run MIC and NMI with --allow-cluster-identities", name(id), id.Namespace, v1.PolicyName),
	}
}
