// Package federation defines what a federated identity (type 3) needs besides the AzureIdentity:
// its broker in the cluster, and the federated credential on Azure that trusts the broker. It holds
// no client.
package federation
