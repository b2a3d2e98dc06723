package source

import (
	"time"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/token"
)

// Restore reads the reply of a token that another agent passed on, with the checks of a new one.
// cluster is imds.Config's ClusterIdentity.
func Restore(from token.Carried, cluster func(clientID, resourceID string) bool) (*token.Token, error) {
	t, err := ParseReply(from.Reply, time.Now())
	if err != nil {
		return nil, err
	}
	subject := SubjectOf(t)
	if err := subject.Mismatch(from.Spec); err != nil {
		return nil, err
	}
	if from.Spec.Type == v1.UserAssignedMSI && cluster != nil {
		t.ClusterEvidence = subject.ClusterEvidence(&from.Spec, cluster)
	}
	return t, nil
}
