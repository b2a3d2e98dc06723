package source_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/reason"
)

// minting is a source of tokens that always succeeds.
type minting struct{}

func (minting) Token(context.Context, token.Request) (*token.Token, error) {
	return &token.Token{}, nil
}

func TestByType(t *testing.T) {
	sources := source.ByType{v1.UserAssignedMSI: minting{}}
	r := token.Request{Identity: &v1.AzureIdentity{}}
	if _, err := sources.Token(t.Context(), r); err != nil {
		t.Error(err)
	}
	r.Identity.Spec.Type = v1.Federated
	_, err := sources.Token(t.Context(), r)
	if f := reason.AsRefusal(err); f == nil || f.Answer().Status != http.StatusForbidden || !strings.Contains(f.Message, "type 3") {
		t.Errorf("got %v", err)
	}
}
