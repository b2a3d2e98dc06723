package compute

import (
	"net/http"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// countPolicy counts calls.
type countPolicy struct{ calls int }

func (p *countPolicy) Do(req *policy.Request) (*http.Response, error) {
	p.calls++
	return req.Next()
}

// The caller's policies see every call of every kind of group.
func TestPerCall(t *testing.T) {
	for kind, group := range groupsUnderTest() {
		t.Run(kind, func(t *testing.T) {
			arm := newARM(t)
			arm.SetGroup(group, Identities{})
			arm.AddIdentities(idPrefix + "a")
			client, seen := arm.client("https://arm.example", arm, nil), &countPolicy{}
			client.options.PerCall = []policy.Policy{seen}
			mustPatch(t, client, group, []string{idPrefix + "a"}, nil)
			if seen.calls == 0 {
				t.Error("the policy saw no call")
			}
		})
	}
}
