module github.com/podid-io/podid/test/clients/azidentity-0.11

go 1.26.0

require (
	github.com/Azure/azure-sdk-for-go/sdk/azcore v0.19.0
	github.com/Azure/azure-sdk-for-go/sdk/azidentity v0.11.0
	github.com/podid-io/podid/test/clients/report v0.0.0
)

require (
	github.com/Azure/azure-sdk-for-go/sdk/internal v0.7.0 // indirect
	github.com/pkg/browser v0.0.0-20180916011732-0a3d74bf9ce4 // indirect
	golang.org/x/crypto v0.0.0-20201016220609-9e8e0b390897 // indirect
	golang.org/x/net v0.0.0-20210610132358-84b48f89b13b // indirect
	golang.org/x/text v0.3.6 // indirect
)

replace github.com/podid-io/podid/test/clients/report => ../report
