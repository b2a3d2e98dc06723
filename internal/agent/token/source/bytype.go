// Choosing the source by the type of an identity.

package source

import (
	"context"
	"fmt"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/reason"
)

// ByType is a token.Source that passes each request to the source of its identity's type.
type ByType map[v1.IdentityType]token.Source

// Token implements token.Source.
func (s ByType) Token(ctx context.Context, r token.Request) (*token.Token, error) {
	if source, ok := s[r.Identity.Spec.Type]; ok {
		return source.Token(ctx, r)
	}
	return nil, &reason.Refusal{
		Reason:  reason.TypeNotSupported,
		Message: fmt.Sprintf("there is no source of tokens for identities of type %d", r.Identity.Spec.Type),
	}
}
