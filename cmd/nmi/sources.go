// The sources of tokens, one for each type of identity, and the replies to pods.

package main

import (
	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/agent/cluster"
	"github.com/podid-io/podid/internal/agent/fair"
	"github.com/podid-io/podid/internal/agent/imds"
	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/agent/token/entra"
	tokenimds "github.com/podid-io/podid/internal/agent/token/imds"
	"github.com/podid-io/podid/internal/agent/token/keyfile"
	"github.com/podid-io/podid/internal/agent/token/source"
	"github.com/podid-io/podid/internal/observe"
	"github.com/podid-io/podid/internal/reason"
)

// served returns the types of identities that have a source.
func served() []v1.IdentityType {
	return []v1.IdentityType{v1.UserAssignedMSI, v1.ServicePrincipal, v1.ServicePrincipalCertificate, v1.Federated}
}

// entraLimits returns the limits of calls to Entra ID, and to the API server for broker tokens.
// Tokens are valid for an hour, so this is far more than pods need. One pod, or the refreshes of
// one namespace, get a few of the concurrent calls, so that a hanging authority does not block the
// others.
func entraLimits() fair.Config {
	return fair.Config{Rate: 20, Burst: 40, Concurrent: 96, PerCaller: 4, Waiting: 1024, WaitingPerCaller: 64, Background: token.Background}
}

// keyFileLimits bound the files with a certificate that are read at once: one of each namespace.
func keyFileLimits() fair.Config {
	return fair.Config{Rate: 100, Burst: 100, Concurrent: 4, PerCaller: 1, Waiting: 256, WaitingPerCaller: 64}
}

func sources(
	o *options, upstream string, limiter source.Limiter, objects *cluster.Objects, own *cluster.OwnIdentities, metrics *observe.Metrics,
) source.ByType {
	app := entra.Config{
		Calls:     source.Calls{Limiter: fair.New(entraLimits()), Meter: metrics, Operation: observe.OpTokenEntra, UserAgent: o.UserAgent("nmi")},
		Authority: o.entra.authority, Roots: o.entra.roots,
	}
	return source.ByType{
		v1.UserAssignedMSI: tokenimds.New(tokenimds.Config{
			Calls:   source.Calls{Limiter: limiter, Meter: metrics, Operation: observe.OpTokenUserAssigned, UserAgent: o.UserAgent("nmi")},
			Address: upstream, ClusterIdentity: clusterIdentity(o, own),
		}),
		v1.ServicePrincipal:            entra.NewClientSecret(app, objects),
		v1.ServicePrincipalCertificate: entra.NewCertificate(app, objects, keyfile.NewParser(fair.New(keyFileLimits()))),
		v1.Federated: entra.NewFederated(app, entra.Federation{
			Brokers: objects, Namespace: o.entra.brokerNamespace, Cloud: o.entra.cloud,
		}),
	}
}

// clusterIdentity returns which identities are the cluster's own, nil if pods may have them.
func clusterIdentity(o *options, own *cluster.OwnIdentities) func(clientID, resourceID string) bool {
	if o.cluster.allow {
		return nil
	}
	return own.Has
}

// render makes the reply for a new token: an object, or a list if there are tokens of auxiliary
// tenants.
func render(t *token.Token, r token.Request) (token.Body, error) {
	first, err := reply(t, r)
	if err != nil {
		return nil, err
	}
	if len(t.Auxiliary) == 0 {
		return first, nil
	}
	all := imds.Replies{first}
	for _, other := range t.Auxiliary {
		next, err := reply(other, r)
		if err != nil {
			return nil, err
		}
		all = append(all, next)
	}
	t.Auxiliary = nil
	return all, nil
}

func reply(t *token.Token, r token.Request) (*imds.Reply, error) {
	made, err := imds.NewReply(t.Fields, r.Resource, r.Identity.Spec.ClientID, t.NotBefore, t.ExpiresOn, t.ExtendedOn)
	if err != nil {
		return nil, &reason.Refusal{
			Reason:  reason.ReplyUnusable,
			Message: "the answer of the token's source makes no sense: try again", Cause: err,
		}
	}
	return made, nil
}
