/*
 * The seed job. The controller runs this when it starts (casc.yaml, `jobs`), so that the job is
 * there; what the job does is in the Jenkinsfile beside this.
 *
 * It is checked out from the repository that the controller was set up with. Its parameters are what
 * jobs.groovy gives to the jobs; one that is empty is what jobs.groovy has for it.
 */

Map<String, String> texts = [
    REPOSITORY: 'The git repository of the jobs, by HTTP(S), SSH or git',
    BRANCH: 'The branch that they build',
    GIT_CREDENTIALS: 'The id of the credentials that read the repository; empty: none are needed',
    REGISTRY: 'Where images are pushed to, HOST[:PORT][/NAMESPACE]; empty: the one on the agent',
    REGISTRY_CREDENTIALS: 'The id of the user and password at the registry; empty: none are needed',
    KUBECONFIG_CREDENTIALS: 'The id of the kubeconfig to deploy with; empty: the one on the agent',
    AGENT: 'The label of the agent that the jobs run on',
]

Map<String, String> told = texts.collectEntries { name, text -> [name, this."${name}"] }

pipelineJob('seed') {
    description('Makes and renews the jobs in the folder slipway from jenkins/jobs.groovy. '
        + 'A job that is taken out there is disabled here, and its history stays.')
    logRotator {
        numToKeep(50)
    }
    parameters {
        texts.each { name, text -> stringParam(name, told[name], text) }
    }
    definition {
        cpsScm {
            scriptPath('jenkins/seed/Jenkinsfile')
            lightweight(true)
            scm {
                git {
                    remote {
                        url(told.REPOSITORY)
                        if (told.GIT_CREDENTIALS) {
                            credentials(told.GIT_CREDENTIALS)
                        }
                    }
                    branch("refs/heads/${told.BRANCH}")
                }
            }
        }
    }
}
